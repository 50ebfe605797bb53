//! Both health services, against the state of the store and of shutdown.

use tonic::Code;
use tonic_health::pb as standard;

use super::*;
use crate::proto::health as petnet;

macro_rules! health_test {
    ($name:ident, $package:ident) => {
        #[tokio::test]
        async fn $name() {
            let a = RunningGateway::alone().await;
            let channel =
                Endpoint::from_shared(format!("http://{}", a.addr)).unwrap().connect().await.unwrap();
            let mut client = $package::health_client::HealthClient::new(channel);
            let ask = |service: &str| $package::HealthCheckRequest { service: service.into() };
            for service in ["", "petnet.simple.v1.SimpleRequestServer"] {
                let answer = client.check(ask(service)).await.unwrap().into_inner();
                assert_eq!(answer.status, 1, "{service}");
            }
            let unknown = client.check(ask("no.such.Service")).await.unwrap_err();
            assert_eq!(unknown.code(), Code::NotFound);
            assert!(unknown.message().contains("no.such.Service"));

            let mut unknown = client.watch(ask("no.such.Service")).await.unwrap().into_inner();
            assert_eq!(unknown.message().await.unwrap().unwrap().status, 3);
            let mut watch = client.watch(ask("")).await.unwrap().into_inner();
            assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
            a.engine.poison("a test");
            assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
            assert_eq!(client.check(ask("")).await.unwrap().into_inner().status, 2);
            a.shutdown().await;
            assert!(watch.message().await.unwrap().is_none(), "the watch ends with the gateway");
        }
    };
}
health_test!(standard_health_is_true_to_the_store, standard);
health_test!(petnet_health_is_true_to_the_store, petnet);
