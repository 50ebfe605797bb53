//! Calling our own gateway from its own machine: it must show exactly the certificate that lies in `PEM_PATH`.
//!
//! Names and roots do not help here: the certificate names the address that peers use, not `localhost`, and the authority
//! that signed it may be known only to peers. The very certificate, together with the proof that the other side has its
//! key, says more than both.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::{HTTP2, OwnCertificate, provider, refused};

/// A configuration that shows `own` and believes only a server that shows the same certificate.
pub(crate) fn myself(own: &OwnCertificate) -> Result<Arc<ClientConfig>, String> {
    let certificate = own.certificate().ok_or("no certificate in it")?.clone();
    let algorithms = provider().signature_verification_algorithms;
    let mut client = ClientConfig::builder_with_details(provider(), super::clock::system())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SameCertificate { certificate, algorithms }))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified_key())));
    client.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(client))
}

#[derive(Debug)]
struct SameCertificate {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for SameCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(refused(
            "the certificate shown is another than server.crt in PEM_PATH; is this our own gateway, and did it take up a new \
             one?"
                .into(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
