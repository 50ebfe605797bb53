//! The same load over `petnet.simple.v1` between two gateways that run already, whatever they are written in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::matrix::{row, subjects, work};
use crate::table::{Row, markdown};
use crate::ways::{Ends, Way};

/// Measures and prints. A row that fails, for a size that these gateways refuse for example, is told below the table.
/// When the first two do, it ends: the others would as well, perhaps after a long wait each.
pub(crate) async fn run(ends: &Ends, time: Duration) -> Result<()> {
    let (mut rows, mut failed): (Vec<Row>, Vec<String>) = (vec![], vec![]);
    // Whatever is there already has other ids.
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    for (n, subject) in subjects(&[Way::Simple]).into_iter().enumerate() {
        match work(subject, ends.clone(), format!("bench-{since}-{n}/"), time).await {
            Ok(done) => {
                let row = row(subject, &done, None);
                eprintln!("  {}: {:.0}/s, {:.1} MB/s", subject.words(), row.accepted, row.rate);
                rows.push(row);
            }
            Err(error) => {
                eprintln!("  {}: {error:#}", subject.words());
                failed.push(format!("{}: {error:#}", subject.words()));
            }
        }
        let [a, b] = &ends.parties;
        let none = rows.is_empty() && failed.len() == 2;
        ensure!(!none, "neither there and back nor from {a} to {b} does a small message get");
    }
    println!("\n{}", markdown(&rows, &[]));
    for failed in failed {
        println!("Left out, {failed}");
    }
    Ok(())
}
