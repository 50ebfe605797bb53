//! The engine that keeps messages in Redis, so that several gateways of one party share one mailbox.
//!
//! ```text
//! engine -> mailbox, outbox, letters, upload -> inner (ask, change) -> sessions -> session -> Redis
//!        -> lane (accepting and storing, many at a time)  ----^
//!        -> reads (what was handed to readers, some at a time) -^
//! keeper -> session (connect), heartbeat, news -> leases, observer
//! all    -> scripts (what changes in Redis changes in one step), record (its bytes)
//! ```
//!
//! Redis is the truth: nothing that has been accepted lives in the gateway. Every change is one script, so it happens completely
//! or not at all, for all gateways. The gateway's docs/redis.md describes the keys and the record.
//!
//! Invariants: no caller is answered "accepted" before Redis has answered (which it does after its own sync, if it is set up
//! to), nor "refused" for what Redis kept; only one gateway delivers to each peer at a time.

mod calls;
mod connection;
mod content;
mod leases;
mod moving;
mod reads;
mod room;
mod rules;
mod shared;
mod status;
mod upkeep;

pub use self::calls::store::RedisStore;
pub use self::connection::durability::Durability;
pub use self::connection::options::{RedisOptions, RedisTls};
pub use self::connection::url::RedisUrl;
pub use self::moving::{RedisSource, RedisTarget};
pub use self::status::{GatewayStatus, PeerStatus, RedisStatus};
pub use self::upkeep::open::RedisReport;
