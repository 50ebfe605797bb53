//! `petnet health`: whether a gateway serves, for whatever looks after it: the health check of a container, or scripts.
//!
//! Without an address or certificates it finds the gateway that was started with the same environment, so that a container
//! needs no extra settings for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::cli::messages::client::{self, GatewayAddress, PAUSE, failure};
use crate::cli::messages::patience::{self, PortProtocol};
use crate::cli::terminal::exit::Exit;
use crate::cli::terminal::say::say;
use crate::config::duration;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;
use crate::rules::mistake::in_a_line;
use crate::server::health_service::SEND;
use crate::tls::{OwnCertificate, myself};

/// Longest time for one question, including connecting.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Address of a gateway where none is given.
const DEFAULT_ADDRESS: &str = "localhost:1235";
const DEFAULT_PEM_PATH: &str = "/app/certs";

/// Ask whether a gateway serves.
///
/// It serves when it hands out messages and delivers them; while it starts, stops or after an error of its disk it does not.
/// A full one serves, and this says that it is full. On the gateway's own machine no flag is needed: address and
/// certificates are found by `LISTEN_ADDR` and `PEM_PATH`, as the gateway has them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  petnet health
  petnet health --gateway gateway.a.example:1235 --certs ./certs --wait 30s

Exit codes:
  0  it serves, full or not
  1  it does not, is not there, or lets us not ask
  2  wrong arguments")]
pub(crate) struct Health {
    /// Address of the gateway [default: that of `LISTEN_ADDR`, else localhost:1235]
    #[arg(long, env = "PETNET_ADDR", value_name = "HOST:PORT")]
    gateway: Option<String>,
    /// Where our own gateway listens; for every address of this machine 127.0.0.1 is asked
    #[arg(long, env = "LISTEN_ADDR", value_name = "ADDRESS:PORT")]
    listen_addr: Option<String>,
    /// Folder with ca.crt, client.crt and client.key: speak TLS, as that client
    #[arg(long, env = "PETNET_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// Without --certs: speak TLS as our own gateway does, if its server.crt and server.key are here
    #[arg(long, env = "PEM_PATH", value_name = "DIR", default_value = DEFAULT_PEM_PATH)]
    pem_path: PathBuf,
    /// Ask again until it serves, for so long; 0 asks once
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    wait: Duration,
}

/// What a gateway that serves accepts.
enum Acceptance {
    All,
    /// It is full: it hands messages out and delivers them, but accepts none.
    NothingNew,
}

impl Health {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let gateway = match self.address() {
            Ok(gateway) => gateway,
            Err(why) => {
                complain!("petnet health: {}", crate::cli::terminal::causes::in_words(&why));
                return Ok(Exit::WrongSettings);
            }
        };
        let deadline = Instant::now() + self.wait;
        loop {
            let asked = timeout(ASK_TIMEOUT, self.ask(&gateway)).await;
            let answer =
                asked.unwrap_or_else(|_| Err(anyhow!("no answer from {gateway} within {ASK_TIMEOUT:?}")));
            let left = deadline.saturating_duration_since(Instant::now());
            match answer {
                Ok(Acceptance::All) => {
                    say("SERVING");
                    return Ok(Exit::Ok);
                }
                Ok(Acceptance::NothingNew) => {
                    say(
                        "SERVING, but FULL: new messages are refused until there is room; petnet status says more",
                    );
                    return Ok(Exit::Ok);
                }
                Err(why) if left.is_zero() => {
                    let is_a_page = patience::look_at(&gateway).await == PortProtocol::Page;
                    return Err(if is_a_page { client::is_a_page(&gateway) } else { why });
                }
                Err(_) => sleep(PAUSE.min(left)).await,
            }
        }
    }

    fn address(&self) -> anyhow::Result<String> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let gateway = match (set(&self.gateway), set(&self.listen_addr)) {
            (Some(gateway), _) => gateway,
            (None, Some(listens)) => reached_at(&listens)?,
            (None, None) => DEFAULT_ADDRESS.into(),
        };
        client::endpoint(&gateway)?;
        Ok(gateway)
    }

    async fn ask(&self, gateway: &str) -> anyhow::Result<Acceptance> {
        let mut health = HealthClient::new(self.channel(gateway).await?);
        let answer = health.check(HealthCheckRequest::default()).await.map_err(|status| {
            let why = failure(&status);
            anyhow!(
                "the gateway at {gateway} does not tell its health: {why}. Does it speak TLS? Then give certificates with \
                 --certs, or its own with --pem-path"
            )
        })?;
        match answer.into_inner().status() {
            ServingStatus::Serving => {
                // An older gateway does not know this name.
                let sends = health.check(HealthCheckRequest { service: SEND.into() }).await;
                let full = sends.is_ok_and(|sends| sends.into_inner().status() == ServingStatus::NotServing);
                Ok(if full { Acceptance::NothingNew } else { Acceptance::All })
            }
            other => bail!("the gateway at {gateway} is {}", other.as_str_name()),
        }
    }

    /// Certificates are read again each time: they may appear while we wait.
    async fn channel(&self, gateway: &str) -> anyhow::Result<Channel> {
        // As everywhere, an empty variable counts as not set.
        let set = |folder: &&Path| !folder.as_os_str().is_empty();
        let given = self.certs.as_deref().filter(set);
        let pem_path = Some(self.pem_path.as_path()).filter(set).unwrap_or(Path::new(DEFAULT_PEM_PATH));
        if given.is_none()
            && let Some(own) =
                OwnCertificate::load(pem_path).map_err(|mistakes| anyhow!(in_a_line(&mistakes)))?
        {
            let tls = myself(&own).map_err(|why| anyhow!("server.crt in {}: {why}", pem_path.display()))?;
            return client::secured(gateway, tls).await.with_context(|| {
                format!(
                    "cannot ask the gateway at {gateway} with the certificate in {}; is it running? Another party's or \
                     machine's is asked with --certs",
                    pem_path.display()
                )
            });
        }
        client::channel(&GatewayAddress { gateway: gateway.into(), certs: given.map(Into::into) }).await
    }
}

/// The address at which a program on the same machine reaches a gateway that listens on `listens`.
fn reached_at(listens: &str) -> anyhow::Result<String> {
    let address: SocketAddr = listens.parse().with_context(|| {
        format!("LISTEN_ADDR: {listens:?}: expected an IP address and a port, such as [::]:1235")
    })?;
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    Ok(SocketAddr::new(ip, address.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_on_every_address_is_asked_on_this_machine() {
        for (listens, reached) in [
            ("[::]:1235", "127.0.0.1:1235"),
            ("0.0.0.0:99", "127.0.0.1:99"),
            ("10.1.2.3:1235", "10.1.2.3:1235"),
            ("[::1]:1235", "[::1]:1235"),
        ] {
            assert_eq!(reached_at(listens).unwrap(), reached);
        }
        assert!(reached_at("here").is_err());
    }
}
