//! A question to a peer that carries no message: does it answer, does it serve, may we deliver.

use tonic::transport::Channel;
use tonic::{Code, Status};

use super::moving::while_moving;
use super::words::in_words;
use super::{PeerLink, Route, Routes};
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;

/// The answer over one connection.
enum ProbeAnswer {
    Serves,
    /// The peer is there, but takes nothing at the moment.
    NotServing(String),
    /// Nothing intelligible came back.
    Nothing(Status),
}

impl PeerLink {
    /// Asks over the connection in use, then over the next one if the first attempt only discovered a break.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let routes = self.routes();
        if routes.all.is_empty() {
            return Err(routes.problem.clone());
        }
        let mut at = routes.route_in_use();
        let mut answer = self.ask_over(&routes, &routes.all[at]).await;
        if matches!(&answer, ProbeAnswer::Nothing(status) if status.code() == Code::Unavailable) {
            at = routes.turn_from(at);
            answer = self.ask_over(&routes, &routes.all[at]).await;
        }
        match answer {
            ProbeAnswer::Serves => Ok(()),
            ProbeAnswer::NotServing(why) => Err(why),
            ProbeAnswer::Nothing(status) => {
                routes.turn_from(at);
                Err(in_words(&status))
            }
        }
    }

    async fn ask_over(&self, routes: &Routes, route: &Route) -> ProbeAnswer {
        let over = route.channel();
        let asking = async {
            match health(over.channel.clone()).await {
                // Only the link says whether we may deliver.
                ProbeAnswer::Serves => match self.stream(route, &over.channel, routes, false).await {
                    Ok(_) => ProbeAnswer::Serves,
                    Err(status) => ProbeAnswer::Nothing(status),
                },
                other => other,
            }
        };
        if let Some(answer) = while_moving(&over.moved, self.limits.stall, asking).await {
            return answer;
        }
        route.renew(over.generation);
        ProbeAnswer::Nothing(crate::wire::status::no_answer(self.limits.stall))
    }
}

async fn health(channel: Channel) -> ProbeAnswer {
    match HealthClient::new(channel).check(HealthCheckRequest::default()).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::NotServing => ProbeAnswer::NotServing(
                "the peer's gateway is there and says that it does not serve now".into(),
            ),
            _ => ProbeAnswer::Serves,
        },
        // An old peer without this service, which does answer.
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => ProbeAnswer::Serves,
        Err(status) => ProbeAnswer::Nothing(status),
    }
}
