//! What presence keeps on the servers, byte for byte. Ids may hold anything, so lengths stand before them, never a mark between them.

use im_core::{DeviceId, InvalidId, NodeId, Platform, Result, SessionId, SessionRef, UserId};

use crate::error::corrupt;

/// Bytes that are not what they should be.
#[derive(Debug)]
pub(crate) struct Malformed;

impl From<InvalidId> for Malformed {
    fn from(_: InvalidId) -> Self {
        Self
    }
}

impl Malformed {
    pub(crate) fn of(operation: &'static str) -> impl Fn(Self) -> im_core::Error {
        move |_| corrupt(operation, "a session is not what this version writes")
    }
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// A text with its length before it.
    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.byte()?;
        text(self.take(length.into())?)
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

/// A session as it lies in its user's hash; `lua/connect.lua` tells its shape.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) session: SessionRef,
    pub(crate) is_displaced: bool,
    /// Its place in the order of the user's connects.
    pub(crate) number: u64,
    /// The life of its node that it is of.
    pub(crate) life: u64,
}

impl Kept {
    pub(crate) fn parse(id: &[u8], packed: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(packed);
        let is_displaced = reader.byte()? != 0;
        let (number, life) = (reader.number()?, reader.number()?);
        reader.take(32)?; // which calls connected and displaced it
        let session = SessionRef {
            id: SessionId::new(text(id)?)?,
            node: NodeId::new(reader.text()?)?,
            device: DeviceId::new(reader.text()?)?,
            platform: Platform::new(reader.text()?)?,
        };
        Ok(Self { session, is_displaced, number, life })
    }
}

/// A session as a node's set names it: with its user.
pub(crate) fn member(user: &UserId, session: &SessionId) -> Vec<u8> {
    let (user, session) = (user.as_str().as_bytes(), session.as_str().as_bytes());
    // An id has at most 64 bytes.
    let mut member = vec![user.len() as u8];
    member.extend_from_slice(user);
    member.extend_from_slice(session);
    member
}

/// Whose session a member of a node's set is, and which.
pub(crate) fn of_member(member: &[u8]) -> Result<(UserId, SessionId), Malformed> {
    let mut reader = Reader(member);
    let user = UserId::new(reader.text()?)?;
    Ok((user, SessionId::new(text(reader.0)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_says_where_the_user_ends() {
        for (user, session) in
            [("a", "bc"), ("ab", "c"), ("用户", "\u{feff}"), (&"x".repeat(64), &"y".repeat(64))]
        {
            let key = (UserId::new(user).unwrap(), SessionId::new(session).unwrap());
            assert_eq!(of_member(&member(&key.0, &key.1)).unwrap(), key);
        }
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let member = member(&UserId::new("alice").unwrap(), &SessionId::new("s").unwrap());
        for end in 0..member.len() {
            assert!(of_member(&member[..end]).is_err(), "{end}");
        }
        let mut packed = vec![0; 49];
        for text in ["node", "device", "web"] {
            packed.push(text.len() as u8);
            packed.extend_from_slice(text.as_bytes());
        }
        assert_eq!(Kept::parse(b"s", &packed).unwrap().session.platform.as_str(), "web");
        for end in 0..packed.len() {
            assert!(Kept::parse(b"s", &packed[..end]).is_err(), "{end}");
        }
    }
}
