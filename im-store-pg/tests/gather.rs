//! Many look-ups at once are few statements, and each caller gets its own answer.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/bed.rs"]
mod bed;
mod support;

use bed::{Bed, PATIENCE};
use im_core::{ConversationId, ConversationStore, NewConversation, UserId};
use sqlx::Acquire;
use tokio::task::{AbortHandle, JoinSet};

fn user(number: usize) -> UserId {
    UserId::new(format!("user-{number:04}")).unwrap()
}

fn single(number: usize) -> ConversationId {
    ConversationId::single(&user(number), &user(number + 1)).unwrap()
}

#[tokio::test]
async fn look_ups_of_many_share_statements_and_nobody_gets_anothers_answer() {
    const CALLERS: usize = 1200;
    let bed = Bed::open(|builder| builder).await;
    let store = bed.pg.store();
    // Every third one is not there.
    let there = |number: usize| !number.is_multiple_of(3);
    let new: Vec<_> = (0..CALLERS)
        .filter(|number| there(*number))
        .map(|number| NewConversation::Single(user(number), user(number + 1)))
        .collect();
    store.create(&new).await.unwrap();

    let mut beside = bed.beside.acquire().await.unwrap();
    let mut locked = beside.begin().await.unwrap();
    sqlx::raw_sql(bed.sql("LOCK TABLE {im}.group_members")).execute(&mut *locked).await.unwrap();
    let (mut callers, mut handles) = (JoinSet::new(), Vec::new());
    for number in 0..CALLERS {
        let store = store.clone();
        let ask = async move {
            store.memberships(&[(single(number), user(number))], &None).await.map(|found| (number, found))
        };
        handles.push(callers.spawn(ask));
    }
    bed.wait(2).await;
    // Two statements wait, and there are no more of them, although there are four connections.
    for _ in 0..200 {
        assert_eq!(bed.waiting().await, 2);
    }
    // Who gives up takes nobody along, not even the one whose look-up came first.
    handles.iter().step_by(10).for_each(AbortHandle::abort);
    locked.rollback().await.unwrap();

    let answers = async {
        let mut answered = 0;
        while let Some(answer) = callers.join_next().await {
            let Ok(answer) = answer else { continue };
            let (number, found) = answer.unwrap();
            let found = found.into_iter().next().unwrap().map(|found| found.conversation.id);
            assert_eq!(found, there(number).then(|| single(number)));
            answered += 1;
        }
        answered
    };
    let answered = tokio::time::timeout(PATIENCE, answers).await.expect("an answer");
    assert!(answered >= CALLERS * 9 / 10, "{answered}");
}
