//! What a session may ask, beside sending and pulling.

use im_protocol::{ok, op};
use serde_json::{Value, json};

use crate::support::{Client, Server, message};

/// A group of alice, bob and carol.
async fn group(alice: &mut Client) -> Value {
    let request = json!({
        "op": "create_group", "conversation": "g", "name": "Reading circle", "members": ["bob", "carol"],
        "client_msg_id": "c",
    });
    alice.ok(request).await
}

#[tokio::test]
async fn a_group_is_made_joined_left_and_its_roles_are_given() {
    let server = Server::start().await;
    let (mut alice, mut dave) = (server.client("alice").await, server.client("dave").await);
    let made = group(&mut alice).await;
    assert_eq!((&made["seq"], &made["duplicate"]), (&json!(1), &json!(false)));
    assert_eq!(group(&mut alice).await["duplicate"], true);
    let join = json!({"op": "join", "conversation": "g", "client_msg_id": "j"});
    assert_eq!(dave.ok(join.clone()).await["seq"], 2);
    assert_eq!(dave.ok(join).await["duplicate"], true);
    let role =
        json!({"op": "set_role", "conversation": "g", "user": "dave", "role": "admin", "client_msg_id": "r"});
    assert_eq!(alice.ok(role).await["seq"], 3);
    let put_out = json!({"op": "leave", "conversation": "g", "users": ["carol"], "client_msg_id": "l"});
    assert_eq!(dave.ok(put_out).await["seq"], 4);
    let members = alice.ok(json!({"op": "members", "conversation": "g"})).await;
    let members = members["members"].as_array().unwrap();
    let roles: Vec<_> = members.iter().map(|one| format!("{} {}", one["user"], one["role"])).collect();
    assert_eq!(roles, ["\"alice\" \"owner\"", "\"bob\" \"member\"", "\"dave\" \"admin\""]);
    assert_eq!(dave.ok(json!({"op": "leave", "conversation": "g", "client_msg_id": "l2"})).await["seq"], 5);
    let view = dave.ok(json!({"op": "conversations", "ids": ["g"]})).await;
    let view = &view["conversations"][0];
    assert_eq!(
        (&view["left"]["seq"], &view["head"]["seq"], &view["name"]),
        (&json!(5), &json!(5), &json!("Reading circle"))
    );
}

#[tokio::test]
async fn a_group_without_an_id_is_made_once() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let request = json!({"op": "create_group", "members": ["bob"], "client_msg_id": "c"});
    let (first, again) = (alice.ok(request.clone()).await, alice.ok(request).await);
    assert_eq!(first["conversation"], again["conversation"]);
    assert_eq!(again["duplicate"], true);
}

#[tokio::test]
async fn members_come_a_page_at_a_time() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    group(&mut alice).await;
    let mut after = Value::Null;
    let mut seen = Vec::new();
    loop {
        let page = alice.ok(json!({"op": "members", "conversation": "g", "max": 2, "after": after})).await;
        seen.extend(page["members"].as_array().unwrap().iter().map(|one| one["user"].to_string()));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(seen, ["\"alice\"", "\"bob\"", "\"carol\""]);
}

#[tokio::test]
async fn what_is_read_and_set_shows_on_the_users_other_device() {
    let server = Server::start().await;
    let (mut alice, mut phone, mut web) = (
        server.client("alice").await,
        server.device("bob", "phone").await,
        server.device("bob", "web").await,
    );
    let single = alice.single("bob").await;
    for number in 0..3 {
        let mut request = message(&single, &format!("m{number}"), "x");
        request["ack"] = "stored".into();
        assert_eq!(alice.ok(request).await["level"], "stored");
    }
    let before = web.ok(json!({"op": "state"})).await;
    assert_eq!(before["all"], true, "without a version everything may be new");
    let read = phone.ok(json!({"op": "mark_read", "conversation": single, "seq": 2})).await;
    assert_eq!(read, json!({"read": {"seq": 2, "ordinal": 2}}));
    assert_eq!(phone.refused(json!({"op": "mark_read", "conversation": single, "seq": 99})).await, "behind");
    let set = json!({"op": "set", "conversation": single, "nickname": "A.", "hidden": true, "cleared": 1});
    let set = phone.ok(set).await;
    loop {
        let told = web.event("state").await;
        if told["version"] == set["state"] {
            break;
        }
    }
    let changed = web.ok(json!({"op": "state", "since": before["version"]})).await;
    let view = &changed["changes"][0];
    assert_eq!((&view["id"], &view["unread"], &view["peer"]), (&json!(single), &json!(1), &json!("alice")));
    let settings = json!({
        "nickname": "A.", "hidden": true, "undisturbed": false, "cleared": {"seq": 1, "ordinal": 1},
    });
    assert_eq!(view["settings"], settings);
}

#[tokio::test]
async fn history_is_paged_from_either_end() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    let single = alice.single("bob").await;
    for number in 1..=7 {
        let mut request = message(&single, &format!("m{number}"), &number.to_string());
        request["ack"] = "stored".into();
        alice.ok(request).await;
    }
    let mut page = async |mut asked: Value| {
        asked["op"] = "history".into();
        asked["conversation"] = single.clone().into();
        let page = alice.ok(asked).await;
        let records = page["records"].as_array().unwrap();
        let seqs: Vec<_> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
        (seqs, page["more"].as_bool().unwrap())
    };
    assert_eq!(page(json!({})).await, (vec![1, 2, 3, 4, 5, 6, 7], false));
    assert_eq!(page(json!({"max": 3})).await, (vec![1, 2, 3], true));
    assert_eq!(page(json!({"max": 3, "backward": true})).await, (vec![5, 6, 7], true));
    assert_eq!(page(json!({"from": 2, "to": 4})).await, (vec![2, 3, 4], false));
    assert_eq!(page(json!({"from": 6, "max": 99999})).await, (vec![6, 7], false));
    assert_eq!(page(json!({"to": 8, "from": 8})).await, (vec![], false), "above everything");
}

#[tokio::test]
async fn a_page_ends_where_its_answer_would_be_too_long() {
    let server = Server::with(|_| {}, |ws| ws.outgoing_bytes = 4096).await;
    let (mut alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let single = alice.single("bob").await;
    let cursor = bob.fresh().await;
    for number in 1..=9 {
        let mut request = message(&single, &format!("m{number}"), &"x".repeat(1500));
        request["ack"] = "stored".into();
        alice.ok(request).await;
    }
    alice.ok(message(&single, "huge", &"x".repeat(60_000))).await;
    let mut cursor = json!(cursor);
    let mut seen = Vec::new();
    let mut pages = 0;
    while seen.len() < 10 {
        let page = bob.ok(json!({"op": "pull", "after": cursor})).await;
        for entry in page["entries"].as_array().unwrap() {
            seen.push(entry["record"]["seq"].as_u64().unwrap());
            cursor = entry["cursor"].clone();
        }
        pages += usize::from(!page["entries"].as_array().unwrap().is_empty());
    }
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    assert!(pages >= 6, "two records a page, the huge one alone: {pages}");
    let back = bob.ok(json!({"op": "history", "conversation": single, "to": 9, "backward": true})).await;
    assert_eq!((&back["more"], &back["records"][0]["seq"]), (&json!(true), &json!(8)));
    let up = bob.ok(json!({"op": "history", "conversation": single, "to": 9})).await;
    assert_eq!((&up["more"], up["records"].as_array().unwrap().len()), (&json!(true), 2));
}

#[tokio::test]
async fn heads_of_large_groups_come_a_page_at_a_time() {
    let server = Server::with(|engine| (engine.read_diffusion_threshold, engine.page) = (2, 2), |_| {}).await;
    let mut alice = server.client("alice").await;
    for number in 0..5 {
        let id = format!("g{number}");
        let request =
            json!({"op": "create_group", "conversation": id, "members": ["bob"], "client_msg_id": id});
        alice.ok(request).await;
        // The switch follows the creation: wait until it is there.
        loop {
            let page = alice.ask(json!({"op": "conversations", "ids": [id]})).await;
            if page["ok"]["conversations"][0]["large"] == true {
                break;
            }
        }
    }
    let mut bob = server.connect().await;
    let hello = bob.ok(json!({"op": "hello", "token": "bob", "device": "b"})).await;
    let mut heads = hello["heads"].as_array().unwrap().clone();
    assert_eq!(heads.len(), 2);
    while heads.len() < 5 {
        let more = bob.event("heads").await;
        let more = more["heads"].as_array().unwrap();
        assert!((1..=2).contains(&more.len()));
        heads.extend_from_slice(more);
    }
    heads.sort_by_key(|head| head["conversation"].to_string());
    heads.dedup_by_key(|head| head["conversation"].to_string());
    assert_eq!(heads.len(), 5);
    let mut newest = message("g3", "m", "hello, all");
    newest["ack"] = "stored".into();
    let sent = alice.ok(newest).await;
    loop {
        let told = bob.event("heads").await;
        if told["heads"].as_array().unwrap().iter().any(|head| head["seq"] == sent["seq"]) {
            break;
        }
    }
}

/// What the types of the protocol say is what the server sends.
#[tokio::test]
async fn answers_have_the_types_of_the_protocol() {
    let server = Server::start().await;
    let mut alice = server.client("alice").await;
    group(&mut alice).await;
    let read = async |alice: &mut Client, request: Value| alice.ok(request).await.to_string();
    let text = read(&mut alice, json!({"op": "conversations", "fresh": true})).await;
    let page: ok::Conversations<'_> = serde_json::from_str(&text).unwrap();
    assert!(page.cursor.is_some() && page.conversations[0].last.is_some());
    let text = read(&mut alice, json!({"op": "ping"})).await;
    assert!(serde_json::from_str::<ok::Ping<'_>>(&text).unwrap().end.is_some());
    let asked = op::History { conversation: "g".into(), from: None, to: None, max: None, backward: false };
    let request = im_protocol::Request { id: Some(1_u64.into()), op: asked.into() };
    let text = read(&mut alice, serde_json::from_str(&im_protocol::frame::request(&request)).unwrap()).await;
    let page: ok::History<im_protocol::RecordView<'_>> = serde_json::from_str(&text).unwrap();
    assert_eq!(&*page.records[0].kind, "members");
}
