//! Finding the primary and connecting to it: a server, what Sentinels name, or the node of a cluster that has our slot.
//!
//! All keys of a party are in one slot, so there is always one server to talk to. Which one is asked again for every session.
//! The library's own reconnecting, redirecting and retrying are not used: whether an operation may be sent again is for the
//! caller, which knows it, to say. Invariant: a connection that is handed out was to a primary when it was made.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, TlsCertificates, Value,
};
use tokio::time::timeout;

use crate::redis::connection::fault::said;
use crate::redis::connection::options::{RedisOptions, RedisTls};
use crate::redis::connection::url::{Login, Node, RedisUrl, Topology};

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoSession {
    /// It may pass by itself.
    Passing(String),
    /// Somebody must change something.
    Final(String),
    /// Other gateways run with different settings.
    Settings(String),
}

impl NoSession {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Passing(why) | Self::Final(why) | Self::Settings(why) => why,
        }
    }
}

/// Makes connections.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    url: RedisUrl,
    tls: RedisTls,
    timeout: Duration,
    /// A key of our slot.
    key: String,
}

/// Receives the messages that are pushed over a connection.
pub(crate) type Pushes = Box<dyn Fn(redis::PushInfo) + Send + Sync>;

impl Connector {
    pub(crate) fn new(options: &RedisOptions) -> Self {
        Self {
            url: options.url.clone(),
            tls: options.tls.clone(),
            timeout: options.timeout,
            key: options.prefix(),
        }
    }

    /// Whether another server may take the primary's place.
    pub(crate) fn fails_over(&self) -> bool {
        !matches!(self.url.topology, Topology::Single(_))
    }

    /// The server to work with at present.
    pub(crate) async fn primary(&self) -> Result<Node, NoSession> {
        match &self.url.topology {
            Topology::Single(node) => Ok(node.clone()),
            Topology::Sentinel { sentinels, name } => {
                self.first_of(sentinels, |node| self.ask_sentinel(node, name)).await
            }
            Topology::Cluster(nodes) => self.first_of(nodes, |node| self.ask_cluster(node)).await,
        }
    }

    /// The answer of the first of some nodes that knows it.
    async fn first_of<F: Future<Output = Result<Node, NoSession>>>(
        &self,
        nodes: &[Node],
        ask: impl Fn(Node) -> F,
    ) -> Result<Node, NoSession> {
        let mut failures = Vec::new();
        for node in nodes {
            match ask(node.clone()).await {
                Ok(primary) => return Ok(primary),
                Err(error) => failures.push(error),
            }
        }
        let all_final = failures.iter().all(|failure| matches!(failure, NoSession::Final(_)));
        let why = failures.iter().map(NoSession::why).collect::<Vec<_>>().join("; ");
        Err(if all_final { NoSession::Final(why) } else { NoSession::Passing(why) })
    }

    async fn ask_sentinel(&self, node: Node, name: &str) -> Result<Node, NoSession> {
        let mut sentinel = self.open(&node, &self.url.sentinel_login, 0, None).await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let found: Option<(String, u16)> = self.ask(&mut sentinel, &node, &ask).await?;
        let (host, port) = found.ok_or_else(|| {
            NoSession::Final(format!(
                "the Sentinel at {node} knows no primary of the name {name:?}; check the end of REDIS_URL"
            ))
        })?;
        Ok(Node { host, port })
    }

    async fn ask_cluster(&self, node: Node) -> Result<Node, NoSession> {
        let mut asked = self.open(&node, &self.url.login, 0, None).await?;
        let slot: i64 =
            self.ask(&mut asked, &node, redis::cmd("CLUSTER").arg("KEYSLOT").arg(&self.key)).await?;
        let slots: Vec<Vec<Value>> = self.ask(&mut asked, &node, redis::cmd("CLUSTER").arg("SLOTS")).await?;
        for range in &slots {
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &range[..] else {
                continue;
            };
            if !(*first..=*last).contains(&slot) {
                continue;
            }
            let [host, Value::Int(port), ..] = &primary[..] else { continue };
            // A node that does not know its own address leaves it out.
            let host = String::from_redis_value_ref(host).ok().filter(|host| !host.is_empty() && host != "?");
            return Ok(Node {
                host: host.unwrap_or_else(|| node.host.clone()),
                port: u16::try_from(*port).unwrap_or_default(),
            });
        }
        Err(NoSession::Passing(format!(
            "the cluster node {node} knows no server for slot {slot}; the cluster is not complete"
        )))
    }

    async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        node: &Node,
        command: &Cmd,
    ) -> Result<T, NoSession> {
        match timeout(self.timeout, command.query_async(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(no_session(node, &error)),
            Err(_) => Err(NoSession::Passing(format!("{node} does not answer within {:?}", self.timeout))),
        }
    }

    /// A connection to the primary at `node`.
    pub(crate) async fn connect(
        &self,
        node: &Node,
        pushes: Option<Pushes>,
    ) -> Result<MultiplexedConnection, NoSession> {
        self.open(node, &self.url.login, self.url.db, pushes).await
    }

    async fn open(
        &self,
        node: &Node,
        login: &Login,
        db: i64,
        pushes: Option<Pushes>,
    ) -> Result<MultiplexedConnection, NoSession> {
        let wrong = |error: &redis::RedisError| {
            NoSession::Final(format!("cannot set up a connection to {node}: {}", said(error)))
        };
        let client = self.client(node, login, db, pushes.is_some()).map_err(|error| wrong(&error))?;
        // Answers have limits of their own: only the caller knows what a lost one means.
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(Some(self.timeout));
        if let Some(pushes) = pushes {
            config = config.set_push_sender(move |push| {
                pushes(push);
                Ok::<_, redis::aio::SendError>(())
            });
        }
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        match timeout(self.timeout, opening).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(no_session(node, &error)),
            Err(_) => Err(NoSession::Passing(format!("cannot connect to {node} within {:?}", self.timeout))),
        }
    }

    fn client(&self, node: &Node, login: &Login, db: i64, pushed_to: bool) -> redis::RedisResult<Client> {
        let (host, port) = (node.host.clone(), node.port);
        let addr = if self.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut redis = RedisConnectionInfo::default().set_db(db).set_skip_set_lib_name();
        if pushed_to {
            redis = redis.set_protocol(ProtocolVersion::RESP3);
        }
        if let Some(user) = &login.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &login.password {
            redis = redis.set_password(password);
        }
        let info: ConnectionInfo = addr.into_connection_info()?.set_redis_settings(redis);
        if !self.url.tls {
            return Client::open(info);
        }
        let client = self.tls.client.clone();
        let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: self.tls.ca.clone() })
    }
}

/// What a server's refusal, or a broken connection to it, means for a session.
pub(crate) fn no_session(node: &Node, error: &redis::RedisError) -> NoSession {
    let why = format!("{node}: {}", said(error));
    let refused = ["NOAUTH", "WRONGPASS", "NOPERM", "invalid password", "invalid username"];
    let is_final = error.kind() == redis::ErrorKind::AuthenticationFailed
        || refused.iter().any(|word| why.contains(word));
    if is_final {
        NoSession::Final(format!("{why}; check user and password in REDIS_URL"))
    } else {
        NoSession::Passing(why)
    }
}
