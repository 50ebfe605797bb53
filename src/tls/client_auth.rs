//! Whether clients must show a certificate.

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsClientAuth {
    /// Everyone must.
    Required,
    /// Python PETNet peers, which present no certificate, are let in.
    Optional,
}
