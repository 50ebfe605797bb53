//! The engine that keeps messages in Redis, so that several gateways of one party share one mailbox.
//!
//! ```text
//! engine -> mailbox, outbox, upload -> inner (ask, change) -> sessions -> session -> Redis
//!        -> lane (accepting and storing, many at a time)  ----^
//! keeper -> session (connect), heartbeat, news -> leases, observer
//! all    -> scripts (what changes in Redis changes in one step), record (its bytes)
//! ```
//!
//! Redis is the truth: nothing that is accepted lives in the gateway. Every change is one script, so it happens whole or not at
//! all, for all gateways. docs/redis.md of the gateway has the keys and the record.
//!
//! Invariants: nobody is told "accepted" before Redis answered (which it does after its own sync, where it is set up to),
//! nor "refused" of what Redis kept; of each peer one gateway delivers at a time.

mod connect;
mod durability;
mod engine;
mod fault;
mod inner;
mod keeper;
mod lane;
mod leases;
mod mailbox;
mod moving;
mod news;
mod open;
mod options;
mod outbox;
mod pieces;
mod record;
mod scripts;
mod service_clock;
mod session;
mod sessions;
mod upload;
mod url;

pub use self::durability::Durability;
pub use self::engine::RedisStore;
pub use self::moving::{RedisSource, RedisTarget};
pub use self::open::RedisReport;
pub use self::options::{RedisOptions, RedisTls};
pub use self::url::RedisUrl;
