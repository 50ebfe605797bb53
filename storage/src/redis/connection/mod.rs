//! Access to Redis: where it is, sessions with one server process, scripts, and what failures and "accepted" mean there.

pub(crate) mod confirming;
pub(crate) mod connect;
pub(crate) mod current_session;
pub(crate) mod durability;
pub(crate) mod fault;
pub(crate) mod options;
pub(crate) mod scripts;
pub(crate) mod service_clock;
pub(crate) mod session;
pub(crate) mod session_life;
pub(crate) mod torn_tail;
pub(crate) mod url;
