//! Which `Host` a request may name: a defence against DNS rebinding.
//!
//! A server on the loopback interface trusts everybody on the machine, and that includes every web page open in a browser
//! there. The browser keeps pages of other origins from reading answers, unless such a page has its own name resolve to
//! 127.0.0.1. Its requests then still carry that name in `Host`, so on loopback only names of the loopback are answered.
//! At another address this is not checked: only its operator knows by which names a gateway is reached.

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};

/// Whether everything that a request names is this machine, as seen from itself. A request that names nothing (HTTP/1.0)
/// does not come from a browser.
pub(super) fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    hosts.chain(uri.authority().map(axum::http::uri::Authority::as_str)).all(is_loopback)
}

/// Whether this is `name` or `name:port` of the loopback, and nothing else. Any port will do, because `ssh -L` changes it.
fn is_loopback(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, behind) = bracketed.unwrap_or_else(|| host.split_at(host.find(':').unwrap_or(host.len())));
    let is_bracketed = bracketed.is_some();
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if !(behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port)) {
        return false;
    }
    if is_bracketed {
        return name.parse().is_ok_and(|ip: std::net::Ipv6Addr| ip.to_canonical().is_loopback());
    }
    name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_the_loopback_are_known() {
        for host in
            ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1:1236", "127.9.9.9", "[::1]:1", "[::1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:1236",
            "127.0.0.1.evil.example",
            "192.168.1.1",
            "[::2]",
            "[::1",
            "[::1]evil.example",
            "[::1]:1:evil.example",
            "[localhost]",
            "[127.0.0.1]:1",
            "localhost:evil.example",
            "localhost:80:evil.example",
            "localhost:",
            "localhost:99999",
            "localhost:+1",
            "localhost..",
            "127.0.0.1.",
            "user@localhost",
            "localhost/x",
            " localhost",
            "127.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
