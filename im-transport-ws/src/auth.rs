//! Who connects.

use std::{error, fmt, sync::Arc};

use async_trait::async_trait;
use im_engine::{DeviceId, Identity, Platform, Timestamp};

/// Tells by its token who a client is.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The identity that a token proves. Device and platform are what the client says of itself; a token may bind them to
    /// others, and then either those count or the token is refused.
    ///
    /// # Errors
    /// See [`AuthError`].
    ///
    /// # Cancel safety
    /// Must be safe.
    async fn authenticate(
        &self,
        token: &str,
        device: &DeviceId,
        platform: Option<&Platform>,
    ) -> Result<Authenticated, AuthError>;
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub identity: Identity,
    /// Until when; none: for ever. A session is closed at that time.
    pub expires: Option<Timestamp>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// It never was valid, for this user or this device. The client must sign in again.
    #[error("the token is not valid")]
    Invalid,
    /// It was valid until lately. The client gets another one.
    #[error("the token has expired")]
    Expired,
    /// It could not be checked. The client tries again.
    #[error("the token could not be checked")]
    Unavailable(#[source] Arc<dyn error::Error + Send + Sync>),
}

impl AuthError {
    /// [`AuthError::Unavailable`] with its cause, which is logged and not told to clients.
    #[must_use]
    pub fn unavailable(cause: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into().into())
    }
}

/// Lets nobody in.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Nobody;

#[cfg(test)]
#[async_trait]
impl Authenticator for Nobody {
    async fn authenticate(
        &self,
        _: &str,
        _: &DeviceId,
        _: Option<&Platform>,
    ) -> Result<Authenticated, AuthError> {
        Err(AuthError::Invalid)
    }
}
