//! Processes every request of a client, and its answer.

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::body_limit::limit_body;
use super::headers::make_legible;
use super::observe::add_trace;
use crate::Observer;

/// A single interceptor, because the SDK calls each interceptor at each of its twenty hooks, for every request.
#[derive(Debug)]
pub(super) struct EveryRequest(pub(super) Observer);

impl Intercept for EveryRequest {
    fn name(&self) -> &'static str {
        "EveryRequest"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        add_trace(&*self.0, context.request_mut());
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        limit_body(context.response_mut(), config);
        make_legible(context.response_mut());
        Ok(())
    }
}
