//! Protobuf on the wire, as tonic's own, but for what cannot be decoded.
//!
//! A request that is no Protobuf of its kind (an id that is not UTF-8, say) is wrong however often it is sent. tonic says
//! INTERNAL, which programs take for a fault of the server and try again.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// Metadata of an answer that names what was wrong by its number, beside gRPC's own code.
pub const ERROR_CODE: &str = "petnet-error-code";
/// Number of a request that cannot be right, however often it is sent.
pub const INVALID_REQUEST: i32 = 20002;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct Protobuf<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Protobuf<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Protobuf<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reads<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reads(PhantomData)
    }
}

/// Decodes one message after the other.
#[derive(Debug)]
pub struct Reads<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for Reads<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(bytes).map(Some).map_err(undecodable)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Bytes that are not the Protobuf message that they should be: of a caller, or of whom we called. Its source is prost's error.
pub fn undecodable(why: prost::DecodeError) -> Status {
    let mut status = Status::invalid_argument(format!("what came cannot be read: {why}"));
    status.metadata_mut().insert(ERROR_CODE, INVALID_REQUEST.into());
    status.set_source(std::sync::Arc::new(why));
    status
}
