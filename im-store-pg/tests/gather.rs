//! Many look-ups at once are few statements, and each caller gets its own answer.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/bed.rs"]
mod bed;
mod support;

use bed::{Bed, PATIENCE};
use im_core::{
    ConversationId, ConversationStore, ErrorKind, Membership, NewConversation, Outcome, Result, UserId,
};
use sqlx::{Postgres, Transaction};
use tokio::task::{AbortHandle, JoinSet};

fn user(number: usize) -> UserId {
    UserId::new(format!("user-{number:04}")).unwrap()
}

fn single(number: usize) -> ConversationId {
    ConversationId::single(&user(number), &user(number + 1)).unwrap()
}

/// What a user has in a conversation, with its number.
fn look_up(bed: &Bed, number: usize) -> impl Future<Output = (usize, Result<Option<Membership>>)> + use<> {
    let store = bed.pg.store();
    async move {
        let found = store.memberships(&[(single(number), user(number))], &None).await;
        (number, found.map(|mut found| found.remove(0)))
    }
}

/// Nobody reads what users have in conversations.
struct Locked(Transaction<'static, Postgres>);

impl Locked {
    async fn members(bed: &Bed) -> Self {
        let mut transaction = bed.beside.begin().await.unwrap();
        sqlx::raw_sql(bed.sql("LOCK TABLE {im}.group_members")).execute(&mut *transaction).await.unwrap();
        Self(transaction)
    }

    async fn release(self) {
        self.0.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn look_ups_of_many_share_statements_and_nobody_gets_anothers_answer() {
    const CALLERS: usize = 1200;
    let bed = Bed::open(|builder| builder).await;
    // Every third one is not there.
    let there = |number: usize| !number.is_multiple_of(3);
    let new: Vec<_> = (0..CALLERS)
        .filter(|number| there(*number))
        .map(|number| NewConversation::Single(user(number), user(number + 1)))
        .collect();
    bed.pg.store().create(&new).await.unwrap();

    let locked = Locked::members(&bed).await;
    let (mut callers, mut handles) = (JoinSet::new(), Vec::new());
    for number in 0..CALLERS {
        handles.push(callers.spawn(look_up(&bed, number)));
    }
    bed.wait(2).await;
    // Two statements wait, and there are no more of them, although there are four connections.
    for _ in 0..200 {
        assert_eq!(bed.waiting().await, 2);
    }
    // Who gives up takes nobody along, not even the one whose look-up came first.
    handles.iter().step_by(10).for_each(AbortHandle::abort);
    locked.release().await;

    let answers = async {
        let mut answered = 0;
        while let Some(answer) = callers.join_next().await {
            let Ok(answer) = answer else { continue };
            let (number, found) = answer;
            let found = found.unwrap().map(|found| found.conversation.id);
            assert_eq!(found, there(number).then(|| single(number)));
            answered += 1;
        }
        answered
    };
    let answered = tokio::time::timeout(PATIENCE, answers).await.expect("an answer");
    assert!(answered >= CALLERS * 9 / 10, "{answered}");
}

/// Of a newer version, say.
#[tokio::test]
async fn a_membership_that_cannot_be_read_hides_no_other() {
    let bed = Bed::open(|builder| builder).await;
    let new: Vec<_> =
        (0..100).map(|number| NewConversation::Single(user(number), user(number + 1))).collect();
    bed.pg.store().create(&new).await.unwrap();
    let odd = "UPDATE {im}.group_members SET role = 'ghost' WHERE main_user = 'user-0007'";
    sqlx::raw_sql(bed.sql(odd)).execute(&bed.beside).await.unwrap();

    let (mut callers, locked) = (JoinSet::new(), Locked::members(&bed).await);
    for number in 0..100 {
        callers.spawn(look_up(&bed, number));
    }
    bed.wait(1).await;
    locked.release().await;
    let answers = async {
        while let Some(answer) = callers.join_next().await {
            let (number, found) = answer.unwrap();
            match found {
                Err(error) => assert_eq!((number, error.kind()), (7, ErrorKind::Corrupt), "{error}"),
                Ok(found) => assert!(number != 7 && found.is_some()),
            }
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("an answer");
}

#[tokio::test]
async fn of_too_many_that_wait_the_last_are_refused_at_once_and_for_now() {
    // As many as wait, and as the statements under way have taken.
    const MOST: usize = 10_000 + 2 * 500;
    let bed = Bed::open(|builder| builder.statement_timeout(PATIENCE)).await;
    let (mut callers, locked) = (JoinSet::new(), Locked::members(&bed).await);
    for number in 0..MOST + 500 {
        callers.spawn(look_up(&bed, number));
    }
    for _ in 0..500 {
        let refused = tokio::time::timeout(PATIENCE, callers.join_next()).await.expect("at once");
        let error = refused.unwrap().unwrap().1.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::NotDone), "{error}");
        assert!(error.is_transient());
    }
    locked.release().await;
    let answers = async {
        let mut answered = 0;
        while let Some(answer) = callers.join_next().await {
            answered += usize::from(answer.unwrap().1.is_ok());
        }
        answered
    };
    let answered = tokio::time::timeout(PATIENCE, answers).await.expect("an answer");
    assert!(answered >= 10_000, "{answered}");
    look_up(&bed, 0).await.1.unwrap();
}
