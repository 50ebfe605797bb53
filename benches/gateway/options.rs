//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};

use crate::clients::PARTIES;
use crate::report::Args;
use crate::ways::{Ends, Way};

/// What `--help` says.
pub(crate) const USAGE: &str = "\
usage: [--quick] [--ways WAY,...] [--write] [CASE]...
       --against ADDR_A ADDR_B [--parties A,B] [--quick]

cases: pingpong, one, sends, large, mib, wake, release, hostile, exchange, stream, beside, restart, memory, status, listing,
       house, redis, matrix;
       without any, all of them
ways:  floor, simple, mailbox, exchange, stream

--quick    shorter rounds and less data: for a look, not for a verdict
--ways     leaves out all others, and the cases that need one of them
--write    writes docs/benchmarks/ when the matrix was run
--against  no gateways are started: the load of petnet.simple.v1 goes to two that run elsewhere
--parties  whose they are; party_a,party_b without it. A receive is repeated until the message is there. Messages
           stay at the other gateway until it forgets them.";

/// A case and the ways that it needs.
pub(crate) type Case = (&'static str, &'static [Way]);

/// All cases in the order of a run. The matrix takes what ways there are.
pub(crate) const CASES: [Case; 18] = [
    ("pingpong", &[Way::Floor, Way::Simple]),
    ("one", &[Way::Floor, Way::Simple]),
    ("sends", &[Way::Floor, Way::Simple]),
    ("large", &[Way::Floor, Way::Simple]),
    ("mib", &[Way::Floor, Way::Simple]),
    ("wake", &[Way::Simple]),
    ("release", &[Way::Mailbox]),
    ("hostile", &[Way::Simple]),
    ("exchange", &[Way::Floor, Way::Exchange]),
    ("stream", &[Way::Stream]),
    ("beside", &[Way::Simple, Way::Stream]),
    ("restart", &[Way::Exchange]),
    ("memory", &[Way::Exchange]),
    ("status", &[Way::Exchange]),
    ("listing", &[Way::Simple, Way::Exchange]),
    ("house", &[Way::Simple, Way::Exchange]),
    ("redis", &[Way::Simple]),
    ("matrix", &[]),
];

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) args: Args,
    pub(crate) ways: Vec<Way>,
    pub(crate) write: bool,
    /// Gateways that run already.
    pub(crate) against: Option<Ends>,
}

impl Options {
    /// Reads the command line; cargo's own flags are passed over.
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut args = args.into_iter();
        let (mut rest, mut ways, mut write) = (Vec::new(), Way::ALL.to_vec(), false);
        let (mut against, mut parties) = (None, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
            match arg.as_str() {
                "--ways" => ways = Way::list(&value()?)?,
                "--parties" => parties = Some(two(&value()?)?),
                "--against" => against = Some([resolved(&value()?)?, resolved(&value()?)?]),
                "--write" => write = true,
                "--quick" | "--bench" => rest.push(arg),
                _ => {
                    let known = CASES.iter().any(|(name, _)| *name == arg);
                    ensure!(known, "there is no case or flag {arg}\n\n{USAGE}");
                    rest.push(arg);
                }
            }
        }
        ensure!(against.is_some() || parties.is_none(), "--parties goes with --against\n\n{USAGE}");
        let parties = parties.unwrap_or(PARTIES.map(str::to_owned));
        let against = against.map(|addresses| Ends { addresses, parties });
        Ok(Self { args: Args::parse(rest), ways, write, against })
    }

    /// The cases that are asked for and can be run with these ways.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let able = |(name, needs): &Case| {
            let missing = needs.iter().find(|way| !self.ways.contains(way));
            if let Some(way) = missing {
                eprintln!("gateway: without the way {} there is no case {name}", way.name());
            }
            missing.is_none()
        };
        CASES.into_iter().filter(|(name, _)| self.args.wants(name)).filter(able).collect()
    }
}

fn two(names: &str) -> Result<[String; 2]> {
    let two = names.split_once(',').with_context(|| format!("{names:?} is not A,B"))?;
    Ok([two.0.into(), two.1.into()])
}

fn resolved(address: &str) -> Result<SocketAddr> {
    let mut found = address.to_socket_addrs().with_context(|| format!("{address} is not HOST:PORT"))?;
    match found.next() {
        Some(address) => Ok(address),
        None => bail!("{address} has no address"),
    }
}
