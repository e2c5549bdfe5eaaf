//! The names of all keys: `prefix:kind:{tag}`.
//!
//! A hash tag is what lies between the first `{` and the next `}`: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
//! An id may hold either; all keys of one owner begin their tag with the same text, so they have the same tag, and the letter before
//! the id keeps it from being empty. The kind stands before the tag, so that no id can make one key of another.

use im_core::{NodeId, Partition, SendKey, UserId};
use sha2::{Digest, Sha256};

/// Makes the keys of one set of data.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    pub(crate) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn of_partition(&self, kind: &str, partition: Partition) -> String {
        format!("{}:{kind}:{{p{}}}", self.prefix, partition.0)
    }

    fn of_user(&self, kind: &str, user: &UserId) -> String {
        format!("{}:{kind}:{{u{user}}}", self.prefix)
    }

    /// A hash: what a partition of the log is, and where it stands.
    pub(crate) fn log(&self, partition: Partition) -> String {
        self.of_partition("log", partition)
    }

    /// A stream: the records.
    pub(crate) fn records(&self, partition: Partition) -> String {
        self.of_partition("records", partition)
    }

    /// A hash: where the conversations of a partition end.
    pub(crate) fn heads(&self, partition: Partition) -> String {
        self.of_partition("heads", partition)
    }

    /// A hash: down to where projections need a partition.
    pub(crate) fn holds(&self, partition: Partition) -> String {
        self.of_partition("holds", partition)
    }

    /// A string: what became of a send. Named by a hash, which is shorter than the ids: 128 bits of SHA-256.
    pub(crate) fn send(&self, partition: Partition, key: &SendKey) -> Vec<u8> {
        let mut hash = Sha256::new();
        for part in [key.conversation.as_str(), key.sender.as_str(), key.client_msg_id.as_str()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut name = self.of_partition("send", partition).into_bytes();
        name.push(b':');
        name.extend_from_slice(&hash.finalize()[..16]);
        name
    }

    /// A string: who has a lease.
    pub(crate) fn lease(&self, name: &str) -> String {
        format!("{}:lease:{{l{name}}}", self.prefix)
    }

    /// A hash: where the fan-out of a partition stands.
    pub(crate) fn checkpoint(&self, partition: Partition) -> String {
        self.of_partition("checkpoint", partition)
    }

    /// A list: the inbox of a user.
    pub(crate) fn inbox(&self, user: &UserId) -> String {
        self.of_user("inbox", user)
    }

    /// A hash: records of consecutive positions that lie in inboxes.
    pub(crate) fn shelf(&self, partition: Partition, epoch: u32, shelf: u64) -> String {
        format!("{}:shelf:{{s{}.{epoch}.{shelf}}}", self.prefix, partition.0)
    }

    /// A hash: the sessions of a user.
    pub(crate) fn sessions(&self, user: &UserId) -> String {
        self.of_user("sessions", user)
    }

    /// A sorted set: the sessions that a node has connected, by when.
    pub(crate) fn node_sessions(&self, node: &NodeId) -> String {
        format!("{}:node:{{n{node}}}", self.prefix)
    }

    /// A hash: until when the nodes live, and which life of theirs it is.
    pub(crate) fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    /// A channel: which partitions have new records.
    pub(crate) fn wake(&self) -> String {
        format!("{}:wake", self.prefix)
    }

    /// A channel: what a node should know.
    pub(crate) fn notices(&self, node: &NodeId) -> String {
        format!("{}:notices:{{n{node}}}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use im_core::{ClientMsgId, ConversationId};

    use super::*;

    /// The tag by the rule of the specification.
    fn tag(key: &str) -> &str {
        let Some((_, rest)) = key.split_once('{') else { return key };
        match rest.split_once('}') {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => key,
        }
    }

    #[test]
    fn all_keys_of_a_user_share_a_tag_that_is_not_empty() {
        let keys = Keys::new("im".into());
        for name in ["alice", "}", "{", "{}", "a}b{c", "用户", " "] {
            let user = UserId::new(name).unwrap();
            let (inbox, sessions) = (keys.inbox(&user), keys.sessions(&user));
            assert_eq!(tag(&inbox), tag(&sessions), "{name}");
            assert!(tag(&inbox).starts_with('u') && tag(&inbox).len() < inbox.len(), "{name}");
        }
    }

    #[test]
    fn no_id_makes_one_key_of_another() {
        let keys = Keys::new("im".into());
        let key = |conversation: &str, sender: &str, id: &str| SendKey {
            conversation: ConversationId::new(conversation).unwrap(),
            sender: UserId::new(sender).unwrap(),
            client_msg_id: ClientMsgId::new(id).unwrap(),
        };
        let send = |key: SendKey| keys.send(Partition(0), &key);
        assert_ne!(send(key("a", "b:c", "d")), send(key("a", "b", "c:d")));
        assert_ne!(send(key("ab", "c", "d")), send(key("a", "bc", "d")));
        assert_ne!(keys.inbox(&UserId::new("a}:x").unwrap()), keys.sessions(&UserId::new("a").unwrap()));
    }
}
