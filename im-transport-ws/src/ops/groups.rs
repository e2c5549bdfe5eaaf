//! create_group, join, leave, set_role, members.

use im_engine::{ConversationId, Member, MemberChange, NewGroup, UserId};
use im_protocol::{Id, Int, MemberView, frame, ok, op};
use sha2::{Digest, Sha256};

use super::{Asker, Refused, id, messages::ack_answer, wanted};

pub(super) async fn create_group(
    asker: &Asker,
    re: Int,
    asked: op::CreateGroup<'_>,
) -> Result<String, Refused> {
    let group = NewGroup {
        id: match &asked.conversation {
            Some(chosen) => id(chosen)?,
            None => following_id(asker.session.user(), &asked.client_msg_id)?,
        },
        name: asked.name.as_deref().map(Into::into),
        members: users(&asked.members)?,
        client_msg_id: id(&asked.client_msg_id)?,
    };
    Ok(ack_answer(re, &asker.session.create_group(group).await?))
}

/// The id of a group whose creator chose none: the same for a retry, and nobody else's.
fn following_id(user: &UserId, client_msg_id: &Id<'_>) -> Result<ConversationId, Refused> {
    let mut hash = Sha256::new();
    hash.update((user.as_str().len() as u32).to_be_bytes());
    hash.update(user.as_str().as_bytes());
    hash.update(client_msg_id.as_bytes());
    let hex: String = hash.finalize()[..24].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(ConversationId::group(format!("g_{hex}"))?)
}

pub(super) async fn join(asker: &Asker, re: Int, asked: op::Join<'_>) -> Result<String, Refused> {
    let change = MemberChange::Join(these_or_oneself(asker, asked.users)?);
    change_members(asker, re, &asked.conversation, &asked.client_msg_id, change).await
}

pub(super) async fn leave(asker: &Asker, re: Int, asked: op::Leave<'_>) -> Result<String, Refused> {
    let change = MemberChange::Leave(these_or_oneself(asker, asked.users)?);
    change_members(asker, re, &asked.conversation, &asked.client_msg_id, change).await
}

pub(super) async fn set_role(asker: &Asker, re: Int, asked: op::SetRole<'_>) -> Result<String, Refused> {
    let change = MemberChange::Role(id(&asked.user)?, asked.role);
    change_members(asker, re, &asked.conversation, &asked.client_msg_id, change).await
}

async fn change_members(
    asker: &Asker,
    re: Int,
    conversation: &Id<'_>,
    client_msg_id: &Id<'_>,
    change: MemberChange,
) -> Result<String, Refused> {
    let ack = asker.session.change_members(&id(conversation)?, id(client_msg_id)?, change).await?;
    Ok(ack_answer(re, &ack))
}

fn these_or_oneself(asker: &Asker, these: Option<Vec<Id<'_>>>) -> Result<Vec<UserId>, Refused> {
    match these {
        Some(these) => users(&these),
        None => Ok(vec![asker.session.user().clone()]),
    }
}

fn users(these: &[Id<'_>]) -> Result<Vec<UserId>, Refused> {
    Ok(these.iter().map(id).collect::<Result<_, _>>()?)
}

pub(super) async fn members(asker: &Asker, re: Int, asked: op::Members<'_>) -> Result<String, Refused> {
    let max = wanted(asked.max).clamp(1, asker.page);
    let after = asked.after.as_ref().map(id).transpose()?;
    let members = asker.session.members(&id(&asked.conversation)?, after, max).await?;
    let next = members.last().filter(|_| members.len() == max).map(|Member { user, .. }| user.into());
    let ok = ok::Members { members: members.iter().map(MemberView::from).collect(), next };
    Ok(frame::answer(re, &ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_an_id_gets_the_same_one_at_a_retry() {
        let of = |user: &str, id: &'static str| {
            let user = UserId::new(user).unwrap();
            following_id(&user, &Id::from(id)).ok().unwrap()
        };
        assert_eq!(of("alice", "m1"), of("alice", "m1"));
        assert_ne!(of("alice", "m1"), of("alic", "em1"));
        assert!(!of("alice", "m1").is_single());
    }
}
