//! Addresses in the party file: whatever the connector can use, and nothing else.

use tonic::codegen::http::Uri;

/// Checks that the text is `host:port`, `1.2.3.4:port` or `[v6]:port`.
pub(super) fn check(url: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = url.split_once("://") {
        return Err(format!(
            "expected host:port without a scheme, {rest:?} instead of {scheme}://: whether TLS is spoken is decided by the \
             certificates in PEM_PATH, for all peers alike"
        ));
    }
    let Some((host, port)) = url.rsplit_once(':') else {
        return Err("expected host:port, and there is no port".into());
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("the port {port:?} is not a number from 1 to 65535"));
    }
    match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(v6)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => return Ok(()),
        Some(_) => return Err("expected [IPv6 address]:port".into()),
        None if host.contains(':') => return Err("write an IPv6 address in brackets: [::1]:1235".into()),
        None => {}
    }
    if host.chars().any(|c| c.is_alphanumeric() && !c.is_ascii()) {
        return Err(format!("{host:?} is not written as names are looked up; write it in ASCII (xn--...)"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > 253 || !labels.clone().all(is_label) {
        return Err(format!("{host:?} is not a host name or address"));
    }
    // The connector's own verdict, whatever the rules above say.
    format!("http://{url}").parse::<Uri>().map(drop).map_err(|_| format!("{host:?} cannot be connected to"))
}
