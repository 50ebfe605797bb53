//! The wire of the gateway: messages, clients and servers of each package, generated from `protos/petnet/*.proto`.
//!
//! The generated code is checked in under `src/generated`, so that nobody who builds the gateway needs the generator. The
//! test `generated` generates it again and compares; `PETNET_WRITE_PROTOS=1 cargo test -p petnet-protos` writes it.

pub mod codec;

pub use codec::{ERROR_CODE, INVALID_REQUEST};

/// A module for a package.
macro_rules! package {
    ($name:ident, $file:literal, $doc:literal) => {
        #[doc = $doc]
        #[allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated code")]
        pub mod $name {
            include!(concat!("generated/", $file, ".rs"));
        }
    };
}

package!(simple, "petnet.simple.v1", "`petnet.simple.v1`: PETNet's client service. It never changes.");
package!(
    mailbox,
    "petnet.mailbox.v1",
    "`petnet.mailbox.v1`: the client service with all that this gateway can do."
);
package!(peer, "petnet.peer.v1", "`petnet.peer.v1`: the link between two gateways.");
package!(
    admin,
    "petnet.admin.v1",
    "`petnet.admin.v1`: the operator's service, on a socket in the data folder."
);
package!(health, "petnet.health.v1", "`petnet.health.v1`: PETNet's health service. It never changes.");
