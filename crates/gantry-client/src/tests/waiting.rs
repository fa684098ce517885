//! How long the consumer waits, and for what.

use tokio::time::advance;

use super::*;
use gantry_proto::{Code, WireError};

/// Longer than every time limit of a download.
const STOP: Duration = Duration::from_secs(150);

/// Answers requests on a subject with these errors, one by one, and then with the object.
async fn refuse(bus: &Arc<Memory>, questions: &mut Subscription, errors: Vec<WireError>) {
    for error in errors {
        let question = questions.next().await.unwrap();
        let (headers, payload) = Envelope { transfer: None, context: None }.encode(&Body::Error(error));
        let message = Message { subject: question.reply.unwrap(), headers, payload, ..Message::default() };
        bus.publish(message).await.unwrap();
    }

    let question = questions.next().await.unwrap();
    let answer = Message { subject: question.reply.unwrap(), payload: json(&object()), ..Message::default() };
    bus.publish(answer).await.unwrap();
}

/// A `stat` with a relay that refuses it with these errors before it answers, and how long it takes.
async fn stat_refused_with(errors: Vec<WireError>) -> (Result<ObjectInfo, Error>, Duration) {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let client = client(&network.connect(), Options::default());
    let mut questions = bus.subscribe("gantry.v1.stat.s", None).await.unwrap();

    let started = Instant::now();
    let get = wanted();
    let stat = tokio::select! {
        stat = client.stat(&get.store, &get.key, &get.pin) => stat,
        () = async {
            refuse(&bus, &mut questions, errors).await;
            std::future::pending::<()>().await;
        } => unreachable!("it never ends"),
    };
    (stat, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_query_is_repeated_while_the_relay_is_busy() {
    let busy = WireError::new(Code::Busy, "full").with_retry_after_ms(0);
    let (stat, took) = stat_refused_with(vec![busy.clone(), busy.clone(), busy.clone()]).await;
    assert_eq!(stat.unwrap(), object());
    assert!(took < Duration::from_secs(1), "{took:?}");

    let (stat, took) = stat_refused_with(vec![busy; 1000]).await;
    assert!(matches!(stat, Err(Error::GaveUp { cause: Cause::Refused(error), .. }) if error.code == Code::Busy));
    assert_eq!(took.as_secs(), Options::default().query_timeout.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_query_whose_relay_can_not_reach_the_store_is_repeated_once() {
    let unavailable = WireError::new(Code::StoreUnavailable, "S3 is down");
    let (stat, _) = stat_refused_with(vec![unavailable.clone()]).await;
    assert_eq!(stat.unwrap(), object());

    let (stat, took) = stat_refused_with(vec![unavailable.clone(), unavailable]).await;
    assert!(matches!(stat, Err(Error::GaveUp { cause: Cause::Refused(_), requests: 2 })), "{stat:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_of_a_query_is_not_repeated() {
    let (stat, _) = stat_refused_with(vec![WireError::new(Code::NotFound, "no such object")]).await;
    assert!(matches!(stat, Err(Error::Refused(_))), "{stat:?}");
}

/// The relay may not send to the consumer's inbox, and can't report that.
#[tokio::test(start_paused = true)]
async fn requests_that_are_never_answered_name_the_inbox() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default().patience(Duration::from_secs(20)));
    let hearing = async { while relay.requests.next().await.is_some() {} };

    let ended = tokio::select! {
        ended = client.get(wanted()) => ended.map(|_| ()),
        () = hearing => panic!("the subscription ended"),
    };

    assert!(matches!(&ended, Err(Error::Unanswered { inbox, requests: 2.. }) if !inbox.is_empty()), "{ended:?}");
}

/// After SIGSTOP and SIGCONT, all timeouts have expired, and the bytes are in the socket.
#[tokio::test(start_paused = true)]
async fn a_suspended_process_does_not_use_up_a_downloads_patience() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let (download, _) = tokio::join!(client.get(wanted()), relay.accept());
    let mut download = download.unwrap();
    relay.say(&Body::Chunk(Chunk::new(0, 0, vec![7; 1000].into()))).await;
    download.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;

    advance(STOP).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    relay.say(&Body::Chunk(Chunk::new(1, 1000, body()[1000..].to_vec().into()))).await;
    relay.say(&Body::End(End { chunks: 2, bytes: SIZE })).await;

    let mut len = 1000;
    while let Some(bytes) = download.try_next().await.unwrap() {
        len += bytes.len() as u64;
    }
    assert_eq!((len, download.progress().borrow().recoveries), (SIZE, 0));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_does_not_use_up_a_querys_patience() {
    let network = MemoryNetwork::new(1);
    let bus = network.connect();
    let client = client(&network.connect(), Options::default());
    let mut questions = bus.subscribe("gantry.v1.stat.s", None).await.unwrap();
    let get = wanted();

    let relay = async {
        let question = questions.next().await.unwrap();
        advance(STOP).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let answer = Message { subject: question.reply.unwrap(), payload: json(&object()), ..Message::default() };
        bus.publish(answer).await.unwrap();
    };
    let (stat, ()) = tokio::join!(client.stat(&get.store, &get.key, &get.pin), relay);

    assert_eq!(stat.unwrap(), object());
}
