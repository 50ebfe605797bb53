//! What a failed call to Redis means: refused, no longer of use, or unknown.

use std::fmt;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Redis refused, and nothing was changed. Other calls may succeed.
    Refused(Arc<str>),
    /// Redis refused because this is not, or no longer, the server to work with; nothing was changed.
    WrongServer(Arc<str>),
    /// The script is not loaded; nothing was changed.
    NoScript,
    /// The operation came after its deadline; it changed nothing.
    Late,
    /// A script ended with an error, perhaps after changing something.
    Failed(Arc<str>),
    /// No answer: it may have been carried out or not.
    Lost(Arc<str>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::WrongServer(why) | Self::Failed(why) | Self::Lost(why) => {
                f.write_str(why)
            }
            Self::NoScript => f.write_str("a script is missing"),
            Self::Late => f.write_str("the operation came after its time"),
        }
    }
}

/// Words in the answer of a server that is not the one to work with. In Redis 6 they are in the middle of a script's error.
const WRONG_SERVER: [&str; 8] =
    ["READONLY", "MOVED ", "ASK ", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "non local key", "PETNETEPOCH"];

/// Words in answers that Redis, or one of our scripts, gives only before the first write.
const REFUSED: [&str; 6] = ["OOM ", "NOREPLICAS", "MISCONF", "BUSY ", "TRYAGAIN", "PETNET"];

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        let text: Arc<str> = said(&error).into();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                if has(&["PETNETLATE"]) {
                    Self::Late
                } else if has(&WRONG_SERVER) || error.kind() == ErrorKind::AuthenticationFailed {
                    Self::WrongServer(text)
                } else if has(&["UNBLOCKED"]) {
                    Self::Lost(text)
                } else if has(&REFUSED) {
                    Self::Refused(text)
                } else {
                    Self::Failed(text)
                }
            }
            _ => Self::Lost(text),
        }
    }
}

/// The error of a server or of the connection to it, in one line.
pub(crate) fn said(error: &RedisError) -> String {
    let said = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    // A script's error ends with its position in the script.
    said.split(" script: ").next().unwrap_or(&said).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str, detail: &str) -> Fault {
        redis::make_extension_error(code.into(), Some(detail.into())).into()
    }

    #[test]
    fn what_redis_answers_is_told_from_what_got_lost() {
        assert!(matches!(
            fault("OOM", "command not allowed when used memory > 'maxmemory'."),
            Fault::Refused(_)
        ));
        assert!(matches!(fault("NOREPLICAS", "Not enough good replicas to write."), Fault::Refused(_)));
        assert!(matches!(fault("MISCONF", "Errors writing to the AOF file"), Fault::Refused(_)));
        let redis6 = "Error running script (call to f_1): @user_script:12: -READONLY You can't write against a read only replica.";
        assert!(matches!(fault("ERR", redis6), Fault::WrongServer(_)));
        assert!(matches!(fault("WRONGTYPE", "Operation against a key"), Fault::Failed(_)));
        assert!(matches!(fault("NOPERM", "no permission to publish"), Fault::Failed(_)));
        assert_eq!(fault("PETNETLATE", "operation 3 is over"), Fault::Late);
        assert!(matches!(fault("PETNETEPOCH", "another incarnation"), Fault::WrongServer(_)));
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(matches!(Fault::from(broken), Fault::Lost(_)));
    }
}
