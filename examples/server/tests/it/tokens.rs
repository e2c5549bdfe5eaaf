//! Which tokens a server accepts.
use std::{path::PathBuf, time::Duration};

use im_server::{KeySource, Secret, StartError, TokenAlgorithm, TokenError, TokenKey, Tokens};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIKvH5Q/CW7Ikg4zHMMlMcR7f/o4NbhIVPqGYV34ZHGrE
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAYq+BRa2TIDdmIfC59YdvyAFWchNxk7q+eXOlptefEbY=
-----END PUBLIC KEY-----
";
const LEEWAY: Duration = Duration::from_secs(60);

fn hs256(secret: &[u8]) -> TokenKey {
    let source = KeySource::Here("the test".to_owned(), Secret::new(secret));
    TokenKey { algorithm: TokenAlgorithm::Hs256, source }
}

fn eddsa() -> TokenKey {
    TokenKey {
        algorithm: TokenAlgorithm::EdDsa,
        source: KeySource::Here("the test".to_owned(), Secret::new(PUBLIC)),
    }
}

fn server(keys: &[TokenKey]) -> Tokens {
    Tokens::load(keys, None, LEEWAY).unwrap()
}

fn in_seconds(seconds: i64) -> i64 {
    get_current_timestamp() as i64 + seconds
}

fn claims() -> Value {
    json!({ "sub": "alice", "exp": in_seconds(100) })
}

fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn signed_hs256(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET), claims)
}

fn signed_eddsa(claims: &Value) -> String {
    signed(Algorithm::EdDSA, &EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap(), claims)
}

/// A text as a token writes it.
fn part(json: &Value) -> String {
    // What an unsigned token looks like is made here by hand: the library signs or refuses.
    let token = signed_hs256(json);
    token.split('.').nth(1).unwrap().to_owned()
}

fn is_invalid(outcome: Result<im_server::Verified, TokenError>) -> bool {
    matches!(outcome, Err(TokenError::Invalid(_)))
}

#[test]
fn both_algorithms_tell_the_user_and_the_end() {
    let server = server(&[eddsa(), hs256(SECRET)]);
    let claims = json!({ "sub": "alice", "exp": 4_000_000_000_u64 });
    for token in [signed_hs256(&claims), signed_eddsa(&claims)] {
        let verified = server.verify(&token).unwrap();
        assert_eq!(verified.user.as_str(), "alice");
        assert_eq!(verified.expires.0, 4_000_000_060_000);
    }
}

#[test]
fn expired_is_told_apart_from_invalid() {
    let server = server(&[hs256(SECRET)]);
    let ended = |ago: i64| signed_hs256(&json!({ "sub": "alice", "exp": in_seconds(-ago) }));
    assert_eq!(server.verify(&ended(100)), Err(TokenError::Expired));
    assert!(server.verify(&ended(20)).is_ok(), "within the leeway");
    // Whoever forges learns nothing of the times.
    let claims = json!({ "sub": "alice", "exp": in_seconds(-100) });
    let forged = signed(Algorithm::HS256, &EncodingKey::from_secret(OTHER_SECRET), &claims);
    assert!(is_invalid(server.verify(&forged)));
}

#[test]
fn forged_tokens_are_refused() {
    let server = server(&[hs256(SECRET), eddsa()]);
    let other = signed(Algorithm::HS256, &EncodingKey::from_secret(OTHER_SECRET), &claims());
    assert!(is_invalid(server.verify(&other)), "another key");

    let token = signed_hs256(&claims());
    let parts: Vec<_> = token.split('.').collect();
    let bob = part(&json!({ "sub": "bob", "exp": in_seconds(100) }));
    assert!(is_invalid(server.verify(&format!("{}.{bob}.{}", parts[0], parts[2]))), "another user");
    assert!(is_invalid(server.verify(&format!("{}.{}.", parts[0], parts[1]))), "no signature");
    for nonsense in ["", ".", "..", "a.b.c", "alice", &"a".repeat(100_000)] {
        assert!(is_invalid(server.verify(nonsense)));
    }
}

#[test]
fn the_algorithm_none_is_refused() {
    let server = server(&[hs256(SECRET), eddsa()]);
    for none in ["none", "None", "NONE", ""] {
        let header = part(&json!({ "alg": none, "typ": "JWT", "exp": 0 }));
        assert!(is_invalid(server.verify(&format!("{header}.{}.", part(&claims())))));
    }
}

#[test]
fn a_key_is_never_used_for_another_algorithm() {
    let only_eddsa = server(&[eddsa()]);
    // The classic: the public key, which everybody knows, as the secret of an HS256 token.
    let der = EncodingKey::from_base64_secret("MCowBQYDK2VwAyEAYq+BRa2TIDdmIfC59YdvyAFWchNxk7q+eXOlptefEbY=")
        .unwrap();
    let raw = EncodingKey::from_base64_secret("Yq+BRa2TIDdmIfC59YdvyAFWchNxk7q+eXOlptefEbY=").unwrap();
    for public in [EncodingKey::from_secret(PUBLIC.as_bytes()), der, raw] {
        assert!(is_invalid(only_eddsa.verify(&signed(Algorithm::HS256, &public, &claims()))));
    }
    assert!(is_invalid(server(&[hs256(SECRET)]).verify(&signed_eddsa(&claims()))));
    // The same family is not the same algorithm.
    let hs512 = signed(Algorithm::HS512, &EncodingKey::from_secret(SECRET), &claims());
    assert!(is_invalid(server(&[hs256(SECRET)]).verify(&hs512)));
}

#[test]
fn user_and_end_must_be_there() {
    let server = server(&[hs256(SECRET)]);
    for claims in [
        json!({ "sub": "alice" }),
        json!({ "sub": "alice", "exp": null }),
        json!({ "sub": "alice", "exp": "tomorrow" }),
        json!({ "sub": "alice", "exp": -1 }),
        json!({ "exp": in_seconds(100) }),
        json!({ "sub": "", "exp": in_seconds(100) }),
        json!({ "sub": "a\nb", "exp": in_seconds(100) }),
        json!({ "sub": "a".repeat(65), "exp": in_seconds(100) }),
        json!({ "sub": 7, "exp": in_seconds(100) }),
    ] {
        assert!(is_invalid(server.verify(&signed_hs256(&claims))), "{claims}");
    }
}

#[test]
fn other_claims_do_not_matter_but_not_before_does() {
    let server = server(&[hs256(SECRET)]);
    let mut claims = claims();
    claims["iss"] = json!("somebody");
    claims["roles"] = json!(["admin", { "of": 7 }]);
    assert!(server.verify(&signed_hs256(&claims)).is_ok());
    claims["nbf"] = json!(in_seconds(1000));
    assert!(is_invalid(server.verify(&signed_hs256(&claims))));
}

#[test]
fn a_token_for_another_service_is_refused() {
    let mut claims = claims();
    claims["aud"] = json!(["shop", "chat"]);
    assert!(is_invalid(server(&[hs256(SECRET)]).verify(&signed_hs256(&claims))));
    let named = |audience| Tokens::load(&[hs256(SECRET)], Some(audience), LEEWAY).unwrap();
    assert!(named("chat").verify(&signed_hs256(&claims)).is_ok());
    assert!(is_invalid(named("mail").verify(&signed_hs256(&claims))));
    claims.as_object_mut().unwrap().remove("aud");
    assert!(is_invalid(named("chat").verify(&signed_hs256(&claims))));
}

#[test]
fn critical_headers_are_refused() {
    let header = Header { crit: Some(vec!["exp".to_owned()]), ..Header::default() };
    let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET)).unwrap();
    assert!(is_invalid(server(&[hs256(SECRET)]).verify(&token)));
}

#[test]
fn a_key_in_a_file_may_end_with_a_line_break() {
    let folder = tempfile::tempdir().unwrap();
    let in_file = |name: &str, algorithm, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        TokenKey { algorithm, source: KeySource::File(path) }
    };
    for end in ["", "\n", "\r\n"] {
        let key = in_file("secret", TokenAlgorithm::Hs256, &[SECRET, end.as_bytes()].concat());
        assert!(server(&[key]).verify(&signed_hs256(&claims())).is_ok());
    }
    let key = in_file("public.pem", TokenAlgorithm::EdDsa, PUBLIC.as_bytes());
    assert!(server(&[key]).verify(&signed_eddsa(&claims())).is_ok());
}

#[test]
fn a_key_that_cannot_be_used_is_named() {
    let refused = |algorithm, secret: &[u8]| {
        let source = KeySource::Here("variable IM_X".to_owned(), Secret::new(secret));
        let error = Tokens::load(&[TokenKey { algorithm, source }], None, LEEWAY).unwrap_err();
        assert!(matches!(error, StartError::Key { .. }), "{error}");
        assert!(error.to_string().contains("variable IM_X"), "{error}");
    };
    refused(TokenAlgorithm::Hs256, b"short");
    refused(TokenAlgorithm::Hs256, PUBLIC.as_bytes());
    refused(TokenAlgorithm::EdDsa, SECRET);
    refused(TokenAlgorithm::EdDsa, PRIVATE.as_bytes());
    refused(TokenAlgorithm::EdDsa, b"");

    let missing =
        TokenKey { algorithm: TokenAlgorithm::Hs256, source: KeySource::File(PathBuf::from("no/such")) };
    let error = Tokens::load(&[missing], None, LEEWAY).unwrap_err();
    assert!(error.to_string().contains("no/such"), "{error}");
}

#[test]
fn nobody_sees_a_secret() {
    let key = hs256(b"hunter2hunter2hunter2hunter2hunter2");
    let tokens = server(std::slice::from_ref(&key));
    assert!(!format!("{key:?} {tokens:?}").contains("hunter2"));
    assert!(format!("{key:?}").contains("redacted"));
}
