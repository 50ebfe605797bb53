//! The time with one server process: its connections, the incarnation in force, and what "accepted" means there.
//!
//! A session ends with the first sign that something is wrong with it, as a whole: a server that went away, was demoted, or
//! does not answer. Invariant: the incarnation was agreed on over connections of this session, with this very process; what
//! is written over them counts for it only as long as that process is the one it began with.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::{Connector, NoSession, Pushes, no_session};
use super::durability::{Durability, Facts, SETTINGS};
use super::fault::{Fault, said};
use super::options::RedisOptions;
use super::scripts::{SCRIPTS, Script};
use super::service_clock::ServiceClock;
use super::url::Node;
use crate::format::random_u64;

/// Which of the connections a call takes: a large answer or chunk must not hold up what is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Accepting and settling.
    Write,
    /// Finding and loading.
    Read,
    /// Chunks of large messages.
    Bulk,
}

/// What a session is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// A gateway is to work with it that has heard of sequences up to this one.
    Serve { newest: u64 },
    /// Everything is to be moved, by `name`, with no gateway running: one that was heard of within `silence` is.
    Move { name: &'a str, lock: Duration, silence: Duration },
}

impl Purpose<'_> {
    /// The script with which it begins.
    fn begin(self, prefix: &str, facts: &Facts) -> Result<Cmd, NoSession> {
        let begin = match self {
            Self::Serve { newest } => {
                let of = |name: &str| facts.info.get(name).cloned().unwrap_or_default();
                let random = random_u64();
                let random = random.map_err(|why| NoSession::Passing(format!("no random numbers: {why}")))?;
                let mut begin = call(&SCRIPTS.begin, prefix);
                begin
                    .arg(format!("{}:{}", of("run_id"), of("master_replid")))
                    .arg(format!("{random:016x}"))
                    .arg(newest)
                    .arg(0);
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

/// See the module.
pub(super) struct Session {
    pub(super) node: Node,
    pub(super) durability: Durability,
    /// 32 hexadecimal digits.
    pub(super) incarnation: String,
    prefix: String,
    service: Arc<ServiceClock>,
    connections: [MultiplexedConnection; 3],
    /// Where news are pushed.
    ear: MultiplexedConnection,
    /// Redis's clock (ms), and ours at that moment.
    clock: (u64, Instant),
    timeout: Duration,
    over: CancellationToken,
    why: OnceLock<Arc<str>>,
}

impl Session {
    /// Finds the primary and begins to work with it. `pushes`: where its news go.
    pub(super) async fn open(
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
        // News first: whatever is looked for afterwards is not missed.
        let mut ear = connector.connect(&node, Some(pushes)).await?;
        within(options.timeout, &node, ear.subscribe(format!("{prefix}news"))).await?;
        let mut load = redis::pipe();
        for script in SCRIPTS.all() {
            load.cmd("SCRIPT").arg("LOAD").arg(&script.source).ignore();
        }
        within(options.timeout, &node, load.query_async::<()>(&mut control)).await?;
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
            ear,
            clock: (now, asked),
            timeout: options.timeout,
            over: CancellationToken::new(),
            why: OnceLock::new(),
        })
    }

    /// Redis's clock when this call is made `after` now, as far as that can be known: not later than it will be (ms).
    pub(super) fn redis_time(&self, after: Duration) -> u64 {
        self.clock.0 + (self.clock.1.elapsed() + after).as_millis() as u64
    }

    /// Ends it: what is under way on it has no answer.
    pub(super) fn end(&self, why: &str) {
        // The first reason is the one.
        drop(self.why.set(why.into()));
        self.over.cancel();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves with the reason when it has ended.
    pub(super) async fn ended(&self) -> Arc<str> {
        self.over.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| "the connection is over".into())
    }

    /// A call of a script with its arguments. Ends the session where the answer shows that it is of no use.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        way: Way,
        script: &Script,
        add: impl Fn(&mut Cmd),
    ) -> Result<T, Fault> {
        self.script_at(way, script, self.service.now(), add).await
    }

    /// The same, with another number than the service time of now.
    pub(super) async fn script_at<T: FromRedisValue>(
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
            // Somebody emptied the server's memory of scripts.
            Err(Fault::NoScript) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(&script.source);
                self.command::<()>(way, &load).await?;
                self.command(way, &command).await
            }
            answered => answered,
        }
    }

    /// A plain command.
    pub(super) async fn command<T: FromRedisValue>(&self, way: Way, command: &Cmd) -> Result<T, Fault> {
        let mut connection = self.connections[way as usize].clone();
        let answer = async {
            tokio::select! {
                biased;
                answer = timeout(self.timeout, command.query_async(&mut connection)) => match answer {
                    Ok(answer) => answer.map_err(Fault::from),
                    Err(_) => Err(Fault::Lost(format!("{} does not answer within {:?}", self.node, self.timeout).into())),
                },
                why = self.ended() => Err(Fault::Lost(why)),
            }
        };
        let answer = answer.await;
        if let Err(Fault::Lost(why) | Fault::WrongServer(why)) = &answer {
            self.end(why);
        }
        answer
    }

    /// Waits until so many replicas have what this connection wrote last; false when they have not in time.
    pub(super) async fn wait(&self, way: Way, replicas: u32, limit: Duration) -> Result<bool, Fault> {
        if replicas == 0 {
            return Ok(true);
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(limit.as_millis().max(1) as u64);
        Ok(self.command::<u32>(way, &wait).await? >= replicas)
    }

    /// Whether news can still come.
    pub(super) async fn hears(&self) -> bool {
        let mut ear = self.ear.clone();
        matches!(timeout(self.timeout, redis::cmd("PING").query_async::<()>(&mut ear)).await, Ok(Ok(())))
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.node)
    }
}

pub(super) fn call(script: &Script, prefix: &str) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(&script.sha).arg(1).arg(prefix);
    command
}

pub(super) async fn within<T>(
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

/// Lines of `INFO` by name.
async fn info(
    control: &mut MultiplexedConnection,
    node: &Node,
    limit: Duration,
) -> Result<HashMap<String, String>, NoSession> {
    let text: String = within(limit, node, redis::cmd("INFO").query_async(control)).await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// What is needed to know what "accepted" means.
pub(super) async fn facts(
    control: &mut MultiplexedConnection,
    node: &Node,
    options: &RedisOptions,
    fails_over: bool,
) -> Result<Facts, NoSession> {
    let info = info(control, node, options.timeout).await?;
    let mut facts = Facts { info, wait_replicas: options.wait_replicas, fails_over, ..Facts::default() };
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
