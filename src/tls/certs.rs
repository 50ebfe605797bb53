//! Certificates of parties: how they name a party, how they are made, what a certificate says.

pub(crate) mod explain;
pub(crate) mod folder;
pub(crate) mod make;
pub(crate) mod pem;
