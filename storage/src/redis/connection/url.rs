//! `REDIS_URL`: where Redis is, and how to log in.
//!
//! ```text
//! redis://[user:password@]host[:6379][/db]                            one server
//! redis://[..@]host:port,host:port,host:port                          a cluster
//! redis+sentinel://[..@]host[:26379],host[:26379]/name[/db]           what Sentinels call `name`
//! rediss://, rediss+sentinel://                                       the same with TLS
//! ```
//!
//! User and password may be percent-encoded. Sentinels that need a password of their own get it with `?sentinel_password=..`
//! (and `sentinel_user`). Invariant: neither a password nor the text that contains it is ever repeated.

use std::fmt;

/// One address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How the primary is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    /// There is only one server.
    Single(Node),
    /// Sentinels know it.
    Sentinel { sentinels: Vec<Node>, name: String },
    /// It is the node that has our slot.
    Cluster(Vec<Node>),
}

/// User and password.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.password.is_some() { "Login(with a password)" } else { "Login(none)" })
    }
}

/// A checked `REDIS_URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    pub(crate) topology: Topology,
    pub(crate) tls: bool,
    pub(crate) db: i64,
    pub(crate) login: Login,
    pub(crate) sentinel_login: Login,
}

impl RedisUrl {
    /// Reads a `REDIS_URL`. The error says what is wrong and repeats nothing that may be secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("expected redis://, rediss://, redis+sentinel:// or rediss+sentinel://")?;
        let (tls, sentinel) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+sentinel" => (false, true),
            "rediss+sentinel" => (true, true),
            _ => return Err("its scheme is none of redis, rediss, redis+sentinel, rediss+sentinel".into()),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (login_of(login)?, hosts),
            None => (Login::default(), authority),
        };
        let port = if sentinel { 26379 } else { 6379 };
        let nodes = hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>()?;
        let mut path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let topology = if sentinel {
            if path.is_empty() {
                return Err(
                    "a Sentinel URL ends with the name of the primary: redis+sentinel://host:26379/mymaster"
                        .into(),
                );
            }
            Topology::Sentinel { sentinels: nodes, name: decoded(path.remove(0))? }
        } else if nodes.len() > 1 {
            Topology::Cluster(nodes)
        } else {
            Topology::Single(nodes.into_iter().next().ok_or("it names no host")?)
        };
        let db = match path.as_slice() {
            [] => 0,
            [db] => {
                db.parse().ok().filter(|db| *db >= 0).ok_or("the database must be a number, such as /0")?
            }
            _ => return Err("there is more than a database behind the hosts".into()),
        };
        if db != 0 && matches!(topology, Topology::Cluster(_)) {
            return Err("a cluster has only database 0".into());
        }
        let mut sentinel_login = Login::default();
        for (name, value) in query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
        {
            match name {
                "sentinel_user" if sentinel => sentinel_login.user = Some(decoded(value)?),
                "sentinel_password" if sentinel => sentinel_login.password = Some(decoded(value)?),
                _ => return Err("only sentinel_user and sentinel_password may stand behind the question mark, for Sentinels".into()),
            }
        }
        Ok(Self { topology, tls, db, login, sentinel_login })
    }
}

/// The URL without its secrets.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls { "s" } else { "" };
        let list = |nodes: &[Node]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match &self.topology {
            Topology::Single(node) => write!(f, "redis{s}://{node}/{}", self.db),
            Topology::Cluster(nodes) => write!(f, "redis{s}://{}", list(nodes)),
            Topology::Sentinel { sentinels, name } => {
                write!(f, "redis{s}+sentinel://{}/{name}/{}", list(sentinels), self.db)
            }
        }
    }
}

fn login_of(text: &str) -> Result<Login, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let some = |part: &str| Ok::<_, String>(Some(decoded(part)?).filter(|part| !part.is_empty()));
    Ok(Login { user: some(user)?, password: some(password)? })
}

fn node(text: &str, port: u16) -> Result<Node, String> {
    let wrong = || "a host is written as host, host:port or [IPv6]:port".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            match after.strip_prefix(':') {
                Some(port) => (host, port.parse().map_err(|_| wrong())?),
                None if after.is_empty() => (host, port),
                None => return Err(wrong()),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, port),
        },
    };
    if host.is_empty() {
        return Err("it names no host".into());
    }
    Ok(Node { host: host.to_owned(), port })
}

fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "a percent sign must stand before two hexadecimal digits".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16)).ok_or_else(wrong);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn every_form_is_understood() {
        let one = RedisUrl::parse("redis://:p%40ss@db.local/3").unwrap();
        assert_eq!(one.topology, Topology::Single(node("db.local", 6379)));
        assert_eq!((one.tls, one.db, one.login.password.as_deref()), (false, 3, Some("p@ss")));
        let cluster = RedisUrl::parse("rediss://user:pw@a:7000,b:7001,[::1]:7002").unwrap();
        assert_eq!(
            cluster.topology,
            Topology::Cluster(vec![node("a", 7000), node("b", 7001), node("::1", 7002)])
        );
        assert!(cluster.tls);
        let text = "redis+sentinel://:pw@s1,s2:26380/mymaster/1?sentinel_password=other";
        let sentinel = RedisUrl::parse(text).unwrap();
        let sentinels = vec![node("s1", 26379), node("s2", 26380)];
        assert_eq!(sentinel.topology, Topology::Sentinel { sentinels, name: "mymaster".into() });
        assert_eq!((sentinel.db, sentinel.sentinel_login.password.as_deref()), (1, Some("other")));
    }

    #[test]
    fn what_is_wrong_is_said_and_no_password_is_repeated() {
        for wrong in [
            "",
            "http://secret@x",
            "redis://",
            "redis://:secret@",
            "redis://:secret@h:port",
            "redis://:secret@h/x",
            "redis+sentinel://:secret@s",
            "redis://:secret@a,b/1",
            "redis://:sec%ret@h",
            "redis://:secret@h?x=secret",
            "redis://:secret@[::1",
            "redis://:secret@h/1/2",
        ] {
            let why = RedisUrl::parse(wrong).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        let url = RedisUrl::parse("redis+sentinel://user:secret@s1/m?sentinel_password=secret").unwrap();
        assert!(!format!("{url} {url:?}").contains("secret"));
    }
}
