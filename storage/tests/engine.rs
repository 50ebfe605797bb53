//! What users of any engine rely on: one suite, run against each of them. The statements are in `engine/`; what is true of
//! the embedded store only (its files, its index, its lanes) is in the other files of this folder.
//!
//! Every engine has a [`Bench`], which opens it, ends it in all ways that it must survive, and moves its clock. A test
//! of the suite is a function of a bench; the list of all is in `engine/mod.rs`.

mod common;
#[path = "engine/mod.rs"]
#[macro_use]
mod suite;

use suite::bench::Bench;

engine_suite!(embedded, crate::suite::embedded::Embedded);
engine_suite!(embedded_without_cache, crate::suite::embedded::WithoutCache);
#[cfg(feature = "redis")]
engine_suite!(redis, crate::suite::redis::Redis);
