//! Which `Host` a request may name, against DNS rebinding.
//!
//! A server on the loopback interface trusts everybody on the machine, and that includes every web page open in a browser
//! there. The browser keeps pages of other origins from reading answers, unless such a page has its own name resolve to
//! 127.0.0.1. Its requests then still carry that name in `Host`, so on loopback only names of the loopback are answered.
//! On another address this is not checked: by which names a gateway is reached, only its operator knows.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};

/// Whether all that a request names is this machine, as seen from itself. One that names nothing (HTTP/1.0) is no browser.
pub(super) fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    hosts.chain(uri.authority().map(axum::http::uri::Authority::as_str)).all(is_loopback)
}

/// Any port will do: `ssh -L` changes it.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
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
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
