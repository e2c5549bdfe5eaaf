//! What every message or every frame goes through.

#![allow(clippy::unwrap_used)]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use im_engine::{
    ClientMsgId, ContentHash, ContentType, ConversationId, Ordinal, Partition, Record, RecordKind, Seq,
    Timestamp, UserId, codec,
};
use im_protocol::{EncodedRecord, frame};
use im_testkit::client::{Marks, Place};

fn record() -> Record {
    let content: Arc<str> = "An ordinary message. ".repeat(10).into();
    let (low, high) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
    Record {
        conversation: ConversationId::single(&low, &high).unwrap(),
        seq: Seq(4711),
        ordinal: Ordinal(4000),
        created_at: Timestamp(1_795_400_000_000),
        sender: low,
        device: None,
        send_to: Some(high),
        client_msg_id: ClientMsgId::fresh(),
        hole_after: None,
        kind: RecordKind::Message,
        content_type: ContentType::Text,
        hash: ContentHash::of(RecordKind::Message, ContentType::Text, &content),
        content,
    }
}

fn codec(criterion: &mut Criterion) {
    let record = record();
    let bytes = codec::encode(&record);
    assert_eq!(codec::decode(&bytes).unwrap(), record);
    let mut group = criterion.benchmark_group("record codec");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| bencher.iter(|| codec::encode(black_box(&record))));
    group.bench_function("decode", |bencher| bencher.iter(|| codec::decode(black_box(&bytes))));
    group.finish();
}

fn signal_frame(criterion: &mut Criterion) {
    let record = record();
    let encoded = EncodedRecord::new(&record);
    let mut group = criterion.benchmark_group("signal frame");
    group
        .bench_function("encode a record", |bencher| bencher.iter(|| EncodedRecord::new(black_box(&record))));
    for entries in [1, 20] {
        group.throughput(Throughput::Elements(entries));
        group.bench_function(format!("compose {entries}"), |bencher| {
            let entries = vec![("0123456789ab-4711", &encoded); entries as usize];
            bencher.iter(|| frame::signal(black_box(&entries).iter().copied()));
        });
    }
    group.finish();
}

fn ids(criterion: &mut Criterion) {
    let record = record();
    let mut group = criterion.benchmark_group("ids");
    group.bench_function("content hash of 210 bytes", |bencher| {
        bencher.iter(|| ContentHash::of(RecordKind::Message, ContentType::Text, black_box(&record.content)));
    });
    group.bench_function("partition", |bencher| {
        bencher.iter(|| Partition::of(black_box(&record.conversation), 64))
    });
    group.finish();
}

fn client_rule(criterion: &mut Criterion) {
    const CONVERSATIONS: usize = 1000;
    let ids: Vec<String> = (0..CONVERSATIONS).map(|number| format!("conversation-{number:04}")).collect();
    let mut marks = Marks::default();
    ids.iter().for_each(|id| marks.know(id, 0));
    let mut taken = 0;
    criterion.bench_function("client rule, 1,000 conversations", |bencher| {
        bencher.iter(|| {
            let seq = (taken / CONVERSATIONS) as u64 + 1;
            taken += 1;
            marks.take(black_box(&ids[(taken - 1) % CONVERSATIONS]), Place { seq, hole_after: None })
        });
    });
}

criterion_group!(hot, codec, signal_frame, ids, client_rule);
criterion_main!(hot);
