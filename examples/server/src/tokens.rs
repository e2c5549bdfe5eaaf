//! Signed tokens: who may connect.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use im_engine::{DeviceId, Identity, Platform, Timestamp, UserId};
use im_transport_ws::{AuthError, Authenticated, Authenticator};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;

use crate::StartError;

/// The shortest HS256 secret, in bytes: a shorter one can be guessed (RFC 7518, 3.2).
const LEAST_SECRET: usize = 32;
const ED25519_BYTES: usize = 32;
const MOST_LEEWAY: Duration = Duration::from_secs(600);

/// The key of one who may sign tokens. It stands for one algorithm: a token that names another is never checked with it.
#[derive(Debug, Clone)]
pub struct TokenKey {
    /// The algorithm.
    pub algorithm: TokenAlgorithm,
    /// Where the key is.
    pub source: KeySource,
}

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256 and a shared secret of at least 32 bytes.
    Hs256,
    /// Ed25519; the key is the public one, in PEM.
    EdDsa,
}

/// Where a key is.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In a file. One line break at its end does not belong to the key.
    File(PathBuf),
    /// Here; with the name of the place it came from.
    Here(String, Secret),
}

/// Bytes that nobody is to see.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes bytes as a secret.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Reads a file, without one line break at its end: editors and `echo` put it there.
    fn read(path: &Path) -> Result<Self, StartError> {
        let mut bytes = std::fs::read(path).map_err(|source| StartError::File {
            what: "read the key",
            path: path.to_owned(),
            source,
        })?;
        for end in [b'\n', b'\r'] {
            bytes.pop_if(|last| *last == end);
        }
        Ok(Self(bytes))
    }

    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Checks tokens against all keys of a server.
#[derive(Debug)]
pub struct Tokens {
    keys: Vec<(DecodingKey, Validation)>,
    leeway: Duration,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The `sub` claim.
    pub user: UserId,
    /// When the token is no longer accepted: its `exp` claim and the leeway.
    pub expires: Timestamp,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// It never was, or is not yet.
    #[error("the token is not valid: {0}")]
    Invalid(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    /// Seconds; RFC 7519 allows fractions.
    exp: f64,
}

impl Tokens {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`StartError::File`] and [`StartError::Key`] name the key that cannot be used; [`StartError::Setting`] a leeway of more
    /// than 600 s.
    pub fn load(keys: &[TokenKey], audience: Option<&str>, leeway: Duration) -> Result<Self, StartError> {
        if leeway > MOST_LEEWAY {
            let why = format!("at most {} s, or tokens hardly expire", MOST_LEEWAY.as_secs());
            return Err(StartError::Setting { name: "token_leeway_seconds", why });
        }
        let keys = keys.iter().map(|key| Ok((key.load()?, key.algorithm.validation(audience, leeway))));
        Ok(Self { keys: keys.collect::<Result<_, StartError>>()?, leeway })
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        for (key, validation) in &self.keys {
            match jsonwebtoken::decode::<Claims>(token, key, validation) {
                Ok(data) if data.header.crit.is_none() => return Ok(self.verified(data.claims)),
                // RFC 7515, 4.1.11: what the issuer calls critical and we do not know.
                Ok(_) => return Err(TokenError::Invalid("it has critical headers".to_owned())),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => {}
                    ErrorKind::ExpiredSignature => return Err(TokenError::Expired),
                    _ => return Err(TokenError::Invalid(error.to_string())),
                },
            }
        }
        Err(TokenError::Invalid("no key of this server signed it".to_owned()))
    }

    fn verified(&self, claims: Claims) -> Verified {
        let expires = Timestamp((claims.exp * 1000.0) as i64).plus(self.leeway);
        Verified { user: claims.sub, expires }
    }
}

impl TokenAlgorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn validation(self, audience: Option<&str>, leeway: Duration) -> Validation {
        let mut validation = Validation::new(match self {
            Self::Hs256 => Algorithm::HS256,
            Self::EdDsa => Algorithm::EdDSA,
        });
        validation.leeway = leeway.as_secs();
        validation.validate_nbf = true;
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        }
        validation
    }

    fn key(self, bytes: &[u8]) -> Result<DecodingKey, String> {
        match self {
            // A public key as a secret: whoever knows it could sign.
            Self::Hs256 if bytes.starts_with(b"-----BEGIN") => Err("it is PEM, and no secret".to_owned()),
            Self::Hs256 if bytes.len() < LEAST_SECRET => {
                Err(format!("it has {} bytes, and needs at least {LEAST_SECRET}", bytes.len()))
            }
            Self::Hs256 => Ok(DecodingKey::from_secret(bytes)),
            Self::EdDsa => DecodingKey::from_ed_pem(bytes)
                .ok()
                // A shorter one would make the library panic at the first token.
                .filter(|key| key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == ED25519_BYTES))
                .ok_or_else(|| "it is not an Ed25519 public key in PEM".to_owned()),
        }
    }
}

impl TokenKey {
    fn load(&self) -> Result<DecodingKey, StartError> {
        let (place, secret) = match &self.source {
            KeySource::Here(place, secret) => (place.clone(), secret.clone()),
            KeySource::File(path) => (path.display().to_string(), Secret::read(path)?),
        };
        let algorithm = self.algorithm;
        let unusable = |why| StartError::Key { algorithm: algorithm.name(), place, why };
        algorithm.key(secret.reveal()).map_err(unusable)
    }
}

#[async_trait]
impl Authenticator for Tokens {
    /// Device and platform are what the client says: a token names a user.
    async fn authenticate(
        &self,
        token: &str,
        device: &DeviceId,
        platform: Option<&Platform>,
    ) -> Result<Authenticated, AuthError> {
        let verified = self.verify(token)?;
        let platform = match platform {
            Some(platform) => platform.clone(),
            None => Platform::new("unknown").map_err(AuthError::unavailable)?,
        };
        let identity = Identity { user: verified.user, device: device.clone(), platform };
        Ok(Authenticated { identity, expires: Some(verified.expires) })
    }
}

impl From<TokenError> for AuthError {
    fn from(error: TokenError) -> Self {
        tracing::debug!(%error, "a token was refused");
        match error {
            TokenError::Expired => Self::Expired,
            TokenError::Invalid(_) => Self::Invalid,
        }
    }
}
