//! Speed and memory of the store alone, against a raw loop of write and `fdatasync` in the same run.
//!
//! `cargo bench -p petnet-storage -- [--quick] [CASE]...`; the cases are single, group, bulk, beside, reopen, space and
//! memory. Rounds of the raw loop and of the store alternate; a ratio is the median of the ratios of the rounds.
#![allow(clippy::unwrap_used, reason = "a benchmark that fails ends")]

mod appends;
mod child;
mod load;
mod raw;
mod report;
mod standing;

use report::{Args, Table, folder, machine};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if child::run_if_child(&args) {
        return;
    }
    let args = Args::parse(args);
    let mut table = Table::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("store: {}", machine(folder().path()));
    if args.wants("single") {
        runtime.block_on(appends::small(folder().path(), &args, &mut table, 1, 0.8));
    }
    if args.wants("group") {
        runtime.block_on(appends::small(folder().path(), &args, &mut table, 256, 15.0));
    }
    if args.wants("bulk") {
        runtime.block_on(appends::bulk(folder().path(), &args, &mut table));
    }
    if args.wants("beside") {
        runtime.block_on(appends::beside(folder().path(), &args, &mut table));
    }
    if args.wants("reopen") {
        standing::reopen(folder().path(), &args, &mut table, 64, 1_000_000);
        standing::reopen(folder().path(), &args, &mut table, 4096, 250_000);
    }
    if args.wants("space") {
        runtime.block_on(standing::space(folder().path(), &args, &mut table));
    }
    if args.wants("memory") {
        for size in [64 << 10, 16 << 10, 4 << 10] {
            standing::memory(folder().path(), &args, &mut table, size);
        }
    }
    table.print();
}
