//! Free ports on the loopback interface.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Finds `N` different ports that are free now. All are held until the last one is found, so that none is found twice.
/// Another program may take one before it is used; that shows as a gateway that cannot start.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    #[test]
    fn ports_differ_and_can_be_bound() {
        let [a, b, c] = super::free().unwrap();
        assert!(a != b && b != c && a != c);
        std::net::TcpListener::bind(("127.0.0.1", a)).unwrap();
    }
}
