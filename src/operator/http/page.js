// Draws the page from /status.json. Everything in there may come from a peer or a client: it becomes text, never markup.
"use strict";
(() => {
  const EVERY_MS = 5000;
  const PATIENCE_MS = 15000;
  const WARN_DAYS = 30;
  const SVG = "http://www.w3.org/2000/svg";
  const at = (id) => document.getElementById(id);

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  };
  const drawn = (tag, attributes = {}, ...children) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const fill = (place, ...children) => place.replaceChildren(...children.flat().filter((child) => child !== null));

  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const count = (value) => grouped.format(value);
  const messages = (value) => `${count(value)} message${value === 1 ? "" : "s"}`;
  const rate = (value) => (value === 0 ? "0" : value < 10 ? value.toFixed(value < 0.1 ? 2 : 1) : count(value));
  const bytes = (value) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = 0;
    for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
    return `${unit > 0 && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
  };
  const span = (seconds) => {
    const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    const first = Math.max(0, parts.findIndex(([size]) => seconds >= size));
    if (seconds < 1) return "0 s";
    const [size, unit] = parts[first];
    const whole = Math.floor(seconds / size);
    const next = parts[first + 1];
    const rest = next ? Math.floor((seconds - whole * size) / next[0]) : 0;
    return rest > 0 && whole < 10 ? `${whole} ${unit} ${rest} ${next[1]}` : `${whole} ${unit}`;
  };
  const short = (seconds) => {
    if (seconds === 0) return "0";
    if (seconds < 0.001) return `${+(seconds * 1e6).toPrecision(3)} µs`;
    return seconds < 1 ? `${+(seconds * 1e3).toPrecision(3)} ms` : `${+seconds.toPrecision(3)} s`;
  };
  const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
  const day = (ms) => new Date(ms).toISOString().slice(0, 10);

  const STATES = {
    serving: "good", full: "warn", draining: "warn", stalled: "warn", refusing: "warn", unavailable: "bad", poisoned: "bad", closed: "bad",
  };
  const PEERS = { idle: "good", delivering: "good", down: "bad", paused: "warn", unknown: "warn" };
  const MEANING = {
    unknown: "not in the party file; its messages wait",
    elsewhere: "another gateway on the same Redis delivers to it",
    paused: "by the operator; its messages wait",
  };
  const pill = (text, kind = "") => element("span", { class: `pill ${kind}` }, text);

  const cell = (label, attributes, ...children) =>
    element("td", { role: "cell", "data-label": label, ...attributes }, element("div", {}, ...children));
  const row = (...cells) => element("tr", { role: "row" }, ...cells);
  const empty = (columns, text) =>
    row(element("td", { role: "cell", class: "none alone", colspan: columns }, text));
  const fact = (name, value, kind = "", note = null) => [
    element("dt", {}, name), element("dd", kind ? { class: kind } : {}, value, note && element("small", {}, note)),
  ];

  const drawTop = (status) => {
    const kind = STATES[status.state] ?? "";
    document.title = `${status.party}: ${status.state} – PETNet gateway`;
    at("party").textContent = status.party;
    at("state").className = `pill ${kind}`;
    if (at("state").textContent !== status.state) at("state").textContent = status.state;
    const facts = [`version ${status.version}`, `up ${span(status.uptime_seconds)}`, status.listen_addr];
    at("facts").textContent = [...facts, status.tls ? "TLS" : "no TLS"].filter(Boolean).join(" · ");
    at("reason").hidden = status.state === "serving" || !status.state_reason;
    at("reason").textContent = status.state_reason;
    const FILES = { party_file: "The party file", certificates: "Our certificate" };
    const refused = (status.refused_reloads ?? []).map((each) =>
      element("span", {}, `${FILES[each.what] ?? each.what} on the disk was refused, since ${day(each.since_ms)} ${clock(each.since_ms)}; the former one is in force: ${each.why} `));
    at("refused").hidden = refused.length === 0;
    fill(at("refused"), refused);
  };

  const drawTiles = (status) => {
    const sum = (list, field) => list.reduce((total, each) => total + each[field], 0);
    const dead = sum(status.dead_letters, "messages");
    const down = status.peers.filter((peer) => peer.state === "down").length;
    const tile = (id, name, value, kind = "") =>
      element("div", { class: `tile ${kind}`, id: `tile-${id}` }, element("b", {}, value), element("span", {}, name));
    fill(at("tiles"), [
      tile("pending", "pending messages", count(sum(status.peers, "pending"))),
      tile("down", "peers down", `${down} of ${status.peers.length}`, down ? "bad" : ""),
      tile("dead", "dead letters", count(dead), dead ? "warn" : ""),
      tile("mailbox", "in the mailbox", count(status.mailbox?.messages ?? 0)),
      tile("waiting", "waiting receives", count(status.mailbox?.waiting ?? 0)),
    ]);
  };

  const drawPeers = (status, now) => {
    const rows = status.peers.map((peer) => {
      const since = peer.state === "down" && peer.down_seconds !== null ? `for ${span(peer.down_seconds)}` : MEANING[peer.state];
      const next = peer.state === "down" && peer.next_attempt_seconds !== null
        ? `next attempt in ${span(peer.next_attempt_seconds)}` : null;
      const age = peer.last_error_ms === null ? null : `${span(Math.max(0, now - peer.last_error_ms) / 1000)} ago`;
      return row(
        cell("Peer", { class: "first" }, element("span", { class: "name" }, peer.party), element("small", {}, peer.urls.join(", "))),
        cell("State", { class: "state" }, pill(peer.state, PEERS[peer.state]), since ? element("small", {}, since) : null,
          next && element("small", {}, next)),
        cell("Pending", { class: "number" }, count(peer.pending)),
        cell("Size", { class: "number" }, bytes(peer.pending_bytes)),
        cell("Oldest", { class: "number" }, peer.oldest_seconds === null ? "–" : span(peer.oldest_seconds)),
        cell("Delivered/s", { class: "number" }, rate(peer.delivered_rate)),
        cell("Last error", { class: peer.last_error ? "error" : "error none" },
          element("span", { class: "clamped", title: peer.last_error }, peer.last_error || "–"),
          peer.last_error && age ? element("small", {}, age) : null),
      );
    });
    fill(at("peers").tBodies[0], rows.length ? rows : empty(7, "The party file names no other party."));
  };

  const drawDead = (status, letters) => {
    const total = status.dead_letters.reduce((sum, dead) => sum + dead.messages, 0);
    const counts = status.dead_letters.filter((dead) => dead.messages > 0);
    fill(at("dead-counts"), counts.map((dead) => pill(`${dead.reason}: ${count(dead.messages)}`, "warn")),
      total > letters.length ? element("span", { class: "none" }, `The newest ${count(letters.length)} of them:`) : null);
    const rows = letters.map((letter) => row(
      cell("Message", { class: "first mono" }, letter.message_id),
      cell("For", { class: "party" }, letter.peer),
      cell("Size", { class: "number" }, bytes(letter.len)),
      cell("Reason", {}, letter.reason,
        letter.reason_text && letter.reason_text !== letter.reason ? element("small", {}, letter.reason_text) : null),
    ));
    at("dead").tHead.hidden = rows.length === 0;
    fill(at("dead").tBodies[0], rows.length ? rows : empty(4, "None: every accepted message was delivered or waits."));
  };

  const drawStore = (store) => {
    if (!store) return;
    const size = store.quota_bytes ? store.limit_bytes || store.quota_bytes : store.disk_total_bytes;
    const ours = store.quota_bytes ? store.used_bytes : store.disk_bytes;
    const others = store.quota_bytes ? 0 : Math.max(0, size - store.disk_free_bytes - ours);
    if (size > 0) {
      const part = (kind, value) => {
        const bar = element("i", { class: kind });
        bar.style.width = `${Math.min(100, (100 * value) / size)}%`;
        return bar;
      };
      const left = store.quota_bytes ? Math.max(0, size - ours) : store.disk_free_bytes;
      const text = `${bytes(ours)} by messages, ${others ? `${bytes(others)} by other files, ` : ""}${bytes(left)} of ${bytes(size)} free`;
      fill(at("disk"), element("div", { class: "bar", role: "img", "aria-label": text }, part("ours", ours), part("others", others)),
        element("p", {}, store.quota_bytes ? `${text} (STORE_MAX_BYTES is ${bytes(store.quota_bytes)})` : text));
    } else {
      fill(at("disk"));
    }
    fill(at("store"), [
      fact("Engine", store.engine, "", store.place),
      fact("Accepted means", store.accepted_means || "–"),
      fact("On disk", bytes(store.disk_bytes)),
      fact("Reclaimable", bytes(store.reclaimable_bytes)),
      fact("Log files", `${count(store.segments)} and ${count(store.spare_segments)} spare`),
      fact("Damaged places", count(store.damaged), store.damaged ? "bad" : ""),
      fact("Sync, last minute", `${short(store.sync_p50_seconds)} / ${short(store.sync_p99_seconds)}`, "", "half / 99 of 100 took at most"),
      fact("Records per sync", store.syncs ? (store.appends / store.syncs).toFixed(1) : "–"),
    ].flat());
  };

  const drawRest = (status) => {
    const certificates = status.certificates.map((certificate) => {
      const days = Math.floor(certificate.seconds_left / 86400);
      const over = certificate.seconds_left < 0;
      const kind = over ? "bad" : days < WARN_DAYS ? "warn" : "";
      const text = over ? "■ expired" : `${kind ? "▲ " : ""}${count(days)} day${days === 1 ? "" : "s"} left`;
      return fact(certificate.name, text, kind, day(certificate.expires_ms));
    });
    fill(at("certificates"), certificates.length ? certificates.flat() : element("dt", {}, "None: traffic is not encrypted."));
    const process = status.process;
    if (!process) return;
    const limit = process.open_files_limit;
    fill(at("process"), [
      fact("Memory", bytes(process.resident_bytes)),
      fact("Open files", `${count(process.open_files)}${limit < 1e15 ? ` of ${count(limit)}` : ""}`,
        process.open_files > limit * 0.8 ? "warn" : ""),
      fact("Connections", count(process.connections)),
      fact("Subscriptions", count(status.mailbox?.subscriptions ?? 0)),
    ].flat());
  };

  // A line per list of values; a value that is missing, or samples far apart, break it.
  const plot = (place, history, lines, { scale, ticks, label, format }) => {
    const width = Math.max(240, place.clientWidth), height = 150;
    const left = 52, right = 6, top = 8, bottom = 20;
    const end = history.at_ms.at(-1) ?? 0, start = end - 3600e3;
    const x = (ms) => left + ((ms - start) / 3600e3) * (width - left - right);
    const y = (value) => height - bottom - scale(value) * (height - top - bottom);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    for (const tick of ticks) {
      svg.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
        drawn("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick)));
    }
    for (const [minutes, anchor] of [[60, "start"], [30, "middle"], [0, "end"]]) {
      const text = minutes ? `${minutes} min ago` : "now";
      svg.append(drawn("text", { x: x(end - minutes * 60e3), y: height - 3, "text-anchor": anchor }, text));
    }
    const legend = element("div", { class: "legend" });
    const said = [];
    for (const [name, kind, values] of lines) {
      let path = "", before = null;
      history.at_ms.forEach((ms, index) => {
        const value = values[index];
        if (value === null || ms < start) { before = null; return; }
        const joined = before !== null && ms - before <= history.every_seconds * 3000;
        path += joined ? `L${x(ms).toFixed(1)} ${y(value).toFixed(1)}` : `M${x(ms).toFixed(1)} ${y(value).toFixed(1)}h.01`;
        before = ms;
      });
      svg.append(drawn("path", { class: kind, d: path, "data-line": name }));
      const last = values.findLast((value) => value !== null);
      const now = last === undefined ? "–" : format(last);
      said.push(`${name} ${now}`);
      legend.append(element("span", {},
        drawn("svg", { class: "plot-key", viewBox: "0 0 24 8", "aria-hidden": "true" }, drawn("path", { class: kind, d: "M1 4H23" })),
        name, element("b", {}, now)));
    }
    svg.setAttribute("aria-label", `${label}: ${said.join(", ")}`);
    if (history.at_ms.length === 0) {
      svg.append(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, `the first sample comes within ${history.every_seconds} s`));
    }
    fill(place, svg, legend);
  };

  const drawPlots = (history) => {
    const rates = [["accepted", "one", history.accepted], ["delivered", "two", history.delivered],
      ["arrived", "three", history.arrived], ["received", "four", history.received]];
    const highest = Math.max(1, ...rates.flatMap(([, , values]) => values));
    const power = 10 ** Math.floor(Math.log10(highest));
    const most = [1, 2, 5, 10].map((step) => step * power).find((step) => step >= highest) ?? 10 * power;
    plot(at("throughput"), history, rates, {
      scale: (value) => value / most, ticks: [0, most / 2, most], format: rate, label: "Messages per second",
    });
    const low = Math.log10(0.0001), high = Math.log10(10);
    plot(at("sync"), history, [["half at most", "one", history.sync_p50], ["99 of 100 at most", "two", history.sync_p99]], {
      scale: (value) => (Math.log10(Math.max(value, 0.0001)) - low) / (high - low),
      ticks: [0.0001, 0.001, 0.01, 0.1, 1, 10], format: short, label: "Time of a sync",
    });
  };

  let told = null, told_at = null, timer = null, asking = false;

  const draw = () => {
    const { status, history, dead_letters: letters, now_ms: now } = told;
    at("main").hidden = false;
    drawTop(status);
    drawTiles(status);
    drawPeers(status, now);
    drawDead(status, letters);
    drawStore(status.store);
    drawRest(status);
    drawPlots(history);
  };

  const refresh = async () => {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch("/status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
      if (!answer.ok) throw new Error(`answer ${answer.status}: ${(await answer.text()).slice(0, 200)}`);
      told = await answer.json();
      told_at = Date.now();
      draw();
      document.body.classList.remove("stale");
      at("stale").hidden = true;
      at("updated").textContent = `updated ${clock(told_at)}, every ${EVERY_MS / 1000} s while this page is shown`;
    } catch (error) {
      document.body.classList.add("stale");
      const since = told_at === null ? "No data yet" : `Stale since ${clock(told_at)}`;
      const text = `${since}: the gateway does not answer (${error.message}). Trying again.`;
      if (at("stale").textContent !== text) at("stale").textContent = text;
      at("stale").hidden = false;
    } finally {
      asking = false;
      timer = setTimeout(refresh, EVERY_MS);
    }
  };

  document.addEventListener("visibilitychange", refresh);
  addEventListener("resize", () => told && drawPlots(told.history));
  refresh();
})();
