//! Who the parties are, and TLS with the certificates that they and we show, as of one reading of the files.
//!
//! All of it changes at once: nobody is judged by the old roots under a new party file. A call keeps the version that it
//! began with.

use std::sync::Arc;

use petnet_storage::PartyId;
use tokio::sync::watch;

use crate::rules::parties::{Connection, Parties};
use crate::tls::certs::explain;
use crate::tls::client_auth::TlsClientAuth;
use crate::tls::{CERTIFICATE, OwnCertificate, Tls};

/// One version of whom we trust.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Our own party.
    pub(crate) own: PartyId,
    pub(crate) parties: Arc<Parties>,
    /// `None` means plaintext.
    pub(crate) tls: Option<Tls>,
    /// Increases with every change.
    pub(crate) version: u64,
    /// Names of our certificate and of the parties whose roots are known, each with the earliest time at which one of its
    /// certificates expires, in seconds since the epoch.
    pub(crate) expiries: Vec<(String, i64)>,
}

/// The version in force.
pub(crate) type CurrentTrust = watch::Receiver<Arc<Trust>>;

impl Trust {
    /// A version with which a gateway starts, or one that follows. Fails if the certificates in the party file cannot be
    /// used.
    pub(crate) fn new(
        party: &PartyId,
        own: Option<&OwnCertificate>,
        client_auth: TlsClientAuth,
        parties: Parties,
        version: u64,
    ) -> Result<Self, String> {
        let parties = Arc::new(parties);
        let tls = match own {
            Some(own) => Some(Tls::new(own, parties.clone(), client_auth)?),
            None => None,
        };
        let expiries = match own {
            Some(own) => expiries(own, &parties),
            None => Vec::new(),
        };
        Ok(Self { own: party.clone(), parties, tls, version, expiries })
    }

    /// The connections over which we may send to `peer`.
    pub(crate) fn connections<'a>(&'a self, peer: &PartyId) -> impl Iterator<Item = &'a Connection> {
        self.parties.connections(peer).iter().filter(|connection| connection.admits(&self.own))
    }
}

fn expiries(own: &OwnCertificate, parties: &Parties) -> Vec<(String, i64)> {
    let earliest = |pem: &[u8]| explain::all(pem).ok()?.iter().map(|one| one.valid_until).min();
    let mut found: Vec<_> =
        earliest(own.certificate_pem()).map(|until| (CERTIFICATE.to_owned(), until)).into_iter().collect();
    for (party, connections) in &parties.parties {
        let roots = connections.iter().filter_map(|c| earliest(c.certificates.as_bytes()));
        found.extend(roots.min().map(|until| (party.to_string(), until)));
    }
    found
}

/// A version that never changes, without TLS.
#[cfg(test)]
pub(crate) fn fixed(own: &str, parties: Parties) -> CurrentTrust {
    let own = crate::testing::party(own);
    watch::channel(Arc::new(Trust {
        own,
        parties: Arc::new(parties),
        tls: None,
        version: 0,
        expiries: Vec::new(),
    }))
    .1
}
