//! One command to a server and its reply: as much of RESP2 as tests need to set servers up and to look into them.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server that takes longer for one command hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Status(String),
    /// A refusal.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// No such thing.
    Nil,
    /// Several.
    List(Vec<Reply>),
}

impl Reply {
    /// As text, whatever it is.
    pub fn text(&self) -> String {
        self.to_string()
    }

    /// The parts of a list; of anything else none.
    pub fn list(&self) -> &[Reply] {
        if let Self::List(all) = self { all } else { &[] }
    }

    /// Whether the server did what it was told.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Status(status) if status == "OK")
    }

    /// The value of a field in a list of names and values, or in the text of `INFO` and its like.
    pub fn field(&self, name: &str) -> Option<String> {
        match self {
            Self::List(all) => {
                all.chunks(2).find(|pair| pair[0].text() == name).and_then(|pair| pair.get(1)).map(Self::text)
            }
            other => {
                let text = other.text();
                let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
                text.lines().find_map(value)
            }
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(text) | Self::Error(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Nil => f.write_str("(nil)"),
            Self::List(all) => f.debug_list().entries(all.iter().map(Self::text)).finish(),
        }
    }
}

/// Where a server listens to us.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Port(u16),
    /// With TLS its ports are for others: we have no TLS here.
    Socket(PathBuf),
}

/// Sends a command over a connection of its own.
pub(crate) fn ask(address: &Address, password: Option<&str>, words: &[&str]) -> io::Result<Reply> {
    match address {
        Address::Port(port) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            talk(stream, password, words)
        }
        Address::Socket(path) => {
            let stream = connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            talk(stream, password, words)
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

fn talk(stream: impl Read + Write, password: Option<&str>, words: &[&str]) -> io::Result<Reply> {
    let mut stream = BufReader::new(stream);
    if let Some(password) = password {
        stream.get_mut().write_all(&encoded(&["AUTH", password]))?;
        read(&mut stream)?;
    }
    stream.get_mut().write_all(&encoded(words))?;
    read(&mut stream)
}

fn encoded(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn read(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end_matches(['\r', '\n']);
    let (Some(kind), Some(rest)) = (line.get(..1), line.get(1..)) else { return Err(strange(line)) };
    let number = || rest.parse::<i64>().map_err(|_| strange(line));
    Ok(match kind {
        "+" => Reply::Status(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "$" => match usize::try_from(number()?) {
            Ok(len) => {
                let mut bytes = vec![0; len + 2];
                stream.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Reply::Bytes(bytes)
            }
            Err(_) => Reply::Nil,
        },
        "*" => match usize::try_from(number()?) {
            Ok(count) => Reply::List((0..count).map(|_| read(stream)).collect::<io::Result<_>>()?),
            Err(_) => Reply::Nil,
        },
        _ => return Err(strange(line)),
    })
}

fn strange(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no reply of Redis: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_all_kinds_are_read() {
        let mut bytes = &b"*5\r\n+OK\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n-ERR no\r\n"[..];
        let expected = Reply::List(vec![
            Reply::Status("OK".into()),
            Reply::Integer(-7),
            Reply::Bytes(b"a\r\nb".to_vec()),
            Reply::Nil,
            Reply::Error("ERR no".into()),
        ]);
        assert_eq!(read(&mut bytes).expect("is read"), expected);
        assert!(read(&mut bytes).is_err(), "nothing is left");
    }

    #[test]
    fn fields_are_found_in_lists_and_in_texts() {
        let text = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
        let list = Reply::List(vec![text("flags"), text("master"), text("port"), text("7")]);
        assert_eq!((list.field("port"), list.field("7")), (Some("7".into()), None));
        let info = text("# Replication\r\nrole:master\r\nconnected_slaves:1\r\n");
        assert_eq!(info.field("connected_slaves"), Some("1".into()));
    }
}
