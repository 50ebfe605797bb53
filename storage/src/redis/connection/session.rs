//! The time with one server process: its connections, the incarnation in force, and what "accepted" means there.
//!
//! A session ends as a whole with the first sign that something is wrong with it: a server that has gone away, was demoted, or
//! does not answer. Only news may fail: nothing but speed depends on them. Invariant: the incarnation was agreed on over
//! connections of this session, with this very process; what is written over them counts for it only as long as that process is
//! the one it began with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult};
use tokio::time::{Instant, timeout};

use crate::log::data_folder::random_u64;
use crate::redis::connection::confirming::Confirming;
use crate::redis::connection::connect::{Connector, NoSession, Pushes, no_session};
use crate::redis::connection::durability::{Durability, SETTINGS, ServerFacts};
use crate::redis::connection::fault::{Fault, said};
use crate::redis::connection::options::RedisOptions;
use crate::redis::connection::scripts::{SCRIPTS, Script};
use crate::redis::connection::service_clock::ServiceClock;
use crate::redis::connection::session_life::SessionLife;
use crate::redis::connection::torn_tail;
use crate::redis::connection::url::Node;

/// Which of the connections a call uses: a large answer or chunk must not hold up small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Accepting and settling.
    Write,
    /// Finding and loading.
    Read,
    /// Chunks of large messages.
    Bulk,
}

/// What a session is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// A gateway is to work with it that knows of sequences up to this one.
    Serve { newest: u64 },
    /// Everything is to be moved by `name`, with no gateway running: one heard from within `silence` counts as running.
    Move { name: &'a str, lock: Duration, silence: Duration },
}

impl Purpose<'_> {
    /// The script that begins a session.
    fn begin(self, prefix: &str, facts: &ServerFacts) -> Result<Cmd, NoSession> {
        let begin = match self {
            Self::Serve { newest } => {
                let random = random_u64();
                let random = random.map_err(|why| NoSession::Passing(format!("no random numbers: {why}")))?;
                let mut begin = call(&SCRIPTS.begin, prefix);
                begin.arg(torn_tail::epoch(facts)).arg(format!("{random:016x}")).arg(newest).arg(0);
                begin
            }
            Self::Move { name, lock, silence } => {
                let mut begin = call(&SCRIPTS.move_lock, prefix);
                begin.arg(name).arg(lock.as_millis() as u64).arg(silence.as_millis() as u64).arg(0);
                begin
            }
        };
        Ok(begin)
    }
}

/// A session with one server process.
pub(crate) struct Session {
    pub(crate) node: Node,
    pub(crate) durability: Durability,
    /// 32 hexadecimal digits.
    pub(crate) incarnation: String,
    prefix: String,
    service: Arc<ServiceClock>,
    connections: [MultiplexedConnection; 3],
    /// The connection over which news are pushed.
    ear: Mutex<MultiplexedConnection>,
    /// The server process, by its own name.
    run_id: String,
    /// Redis's clock (ms), and ours at that moment.
    clock: (u64, Instant),
    timeout: Duration,
    confirming: Confirming,
    pub(crate) life: SessionLife,
}

impl Session {
    /// Finds the primary and begins to work with it. `pushes` receives its news.
    pub(crate) async fn open(
        options: &RedisOptions,
        connector: &Connector,
        service: Arc<ServiceClock>,
        pushes: Pushes,
        purpose: Purpose<'_>,
    ) -> Result<Self, NoSession> {
        let node = connector.primary().await?;
        let mut control = connector.connect(&node, None).await?;
        let facts = facts(&mut control, &node, options, connector.fails_over()).await?;
        if facts.info.get("role").is_some_and(|role| role != "master") {
            return Err(NoSession::Passing(format!("{node} is a replica, not a primary")));
        }
        let durability = Durability::of(&facts);
        if let Some(why) = durability.refused(options.strict, options.allow_volatile) {
            return Err(NoSession::Final(format!("{node}: {why}")));
        }
        let prefix = options.prefix();
        // News first: nothing is missed that is looked for afterwards.
        let ear = listening(connector, &node, pushes, &prefix, options.timeout).await?;
        let mut load = redis::pipe();
        for script in SCRIPTS.all() {
            load.cmd("SCRIPT").arg("LOAD").arg(&script.source).ignore();
        }
        within(options.timeout, &node, load.query_async::<()>(&mut control)).await?;
        torn_tail::cut_off(&mut control, &node, &facts, &prefix, options.timeout).await?;
        let begin = purpose.begin(&prefix, &facts)?;
        let asked = Instant::now();
        let (incarnation, now): (String, u64) =
            within(options.timeout, &node, begin.query_async(&mut control)).await?;
        let connections =
            [control, connector.connect(&node, None).await?, connector.connect(&node, None).await?];
        Ok(Self {
            node,
            durability,
            incarnation,
            prefix,
            service,
            connections,
            ear: Mutex::new(ear),
            run_id: facts.info.get("run_id").cloned().unwrap_or_default(),
            clock: (now, asked),
            timeout: options.timeout,
            confirming: Confirming::default(),
            life: SessionLife::default(),
        })
    }

    /// Redis's clock (ms) when a call is made `after` from now, as far as that can be known: not later than it will be.
    pub(crate) fn redis_time(&self, after: Duration) -> u64 {
        self.clock.0 + (self.clock.1.elapsed() + after).as_millis() as u64
    }

    /// Calls a script with its arguments. Ends the session if the answer shows that it is of no more use.
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T, Fault> {
        self.script_at(way, script, self.service.now(), add).await
    }

    /// Calls a script with a number other than the current service time.
    pub(crate) async fn script_at<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        later: u64,
        add: impl Fn(&mut Cmd),
    ) -> Result<T, Fault> {
        let mut command = call(script, &self.prefix);
        add(&mut command);
        command.arg(later);
        match self.command(way, &command).await {
            // Somebody has emptied the server's script cache.
            Err(Fault::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(&script.source);
                self.command::<()>(way, &load).await?;
                self.command(way, &command).await
            }
            answered => answered,
        }
    }

    /// Sends a plain command.
    pub(crate) async fn command<T: FromRedisValue>(&self, way: Way, command: &Cmd) -> Result<T, Fault> {
        let mut connection = self.connections[way as usize].clone();
        let answer = async {
            match timeout(self.timeout, command.query_async(&mut connection)).await {
                Ok(answer) => answer.map_err(Fault::from),
                Err(_) => Err(Fault::Lost(
                    format!("{} does not answer within {:?}", self.node, self.timeout).into(),
                )),
            }
        };
        self.life.answer(answer).await
    }

    /// Waits until this many replicas have what was written by [`Way::Write`] and answered; false if they do not have it in
    /// time.
    pub(crate) async fn wait(&self, replicas: u32, limit: Duration) -> Result<bool, Fault> {
        if replicas == 0 {
            return Ok(true);
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(limit.as_millis().max(1) as u64);
        let asked = async { Ok(self.command::<u32>(Way::Write, &wait).await? >= replicas) };
        self.confirming.wait(asked).await
    }

    /// Waits in the same way for everything that is there, whoever wrote it, so that a failover does not take away what was read
    /// before.
    pub(crate) async fn wait_for_all(&self, replicas: u32, limit: Duration) -> Result<bool, Fault> {
        if replicas > 0 {
            self.script::<u8>(Way::Write, &SCRIPTS.sign, |_| {}).await?;
        }
        self.wait(replicas, limit).await
    }

    /// The text for too few replicas having what the server has.
    pub(crate) fn lacks(&self, replicas: u32) -> Arc<str> {
        format!("{} has it, but not the {replicas} replicas of REDIS_WAIT_REPLICAS", self.node).into()
    }

    /// Whether news can still arrive.
    pub(crate) async fn hears(&self) -> bool {
        let mut ear = self.ear.lock().clone();
        matches!(timeout(self.timeout, redis::cmd("PING").query_async::<()>(&mut ear)).await, Ok(Ok(())))
    }

    /// Opens another connection for news, to the same server process. Callers that wait have to look for what came in the
    /// meantime. Ends the session if the server is no longer there.
    pub(crate) async fn hear_anew(&self, connector: &Connector, pushes: Pushes) -> Result<(), NoSession> {
        let there = self.command::<()>(Way::Write, &redis::cmd("PING")).await;
        there.map_err(|fault| NoSession::Passing(fault.to_string()))?;
        let mut ear = listening(connector, &self.node, pushes, &self.prefix, self.timeout).await?;
        let info = info(&mut ear, &self.node, self.timeout).await?;
        if info.get("run_id").map_or("", String::as_str) != self.run_id {
            let why = format!("{} is another server process now", self.node);
            self.life.lose(&why);
            return Err(NoSession::Passing(why));
        }
        *self.ear.lock() = ear;
        Ok(())
    }
}

/// A connection over which news come.
async fn listening(
    connector: &Connector,
    node: &Node,
    pushes: Pushes,
    prefix: &str,
    limit: Duration,
) -> Result<MultiplexedConnection, NoSession> {
    let mut ear = connector.connect(node, Some(pushes)).await?;
    within(limit, node, ear.subscribe(format!("{prefix}news"))).await?;
    Ok(ear)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.node)
    }
}

pub(crate) fn call(script: &Script, prefix: &str) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(&script.sha).arg(1).arg(prefix);
    command
}

pub(crate) async fn within<T>(
    limit: Duration,
    node: &Node,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, NoSession> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match no_session(node, &error) {
            NoSession::Passing(why)
                if ["PETNETFORMAT", "PETNETMOVING", "WRONGTYPE"].iter().any(|word| why.contains(word)) =>
            {
                NoSession::Final(why)
            }
            why => why,
        }),
        Err(_) => Err(NoSession::Passing(format!("{node} does not answer within {limit:?}"))),
    }
}

/// The lines of `INFO` by name.
async fn info(
    control: &mut MultiplexedConnection,
    node: &Node,
    limit: Duration,
) -> Result<HashMap<String, String>, NoSession> {
    let text: String = within(limit, node, redis::cmd("INFO").query_async(control)).await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// What is needed to say what "accepted" means.
pub(crate) async fn facts(
    control: &mut MultiplexedConnection,
    node: &Node,
    options: &RedisOptions,
    fails_over: bool,
) -> Result<ServerFacts, NoSession> {
    let info = info(control, node, options.timeout).await?;
    let mut facts =
        ServerFacts { info, wait_replicas: options.wait_replicas, fails_over, ..ServerFacts::default() };
    for name in SETTINGS {
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(name);
        match timeout(options.timeout, get.query_async::<HashMap<String, String>>(control)).await {
            Ok(Ok(found)) => facts.config.extend(found),
            Ok(Err(error)) => facts.config_refused = Some(said(&error)),
            Err(_) => facts.config_refused = Some("no answer".into()),
        }
    }
    Ok(facts)
}
