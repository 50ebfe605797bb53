//! What is learnt about a peer without a message.

use std::sync::atomic::{AtomicBool, Ordering};

use petnet_storage::Outcome;

use super::*;

/// A peer that takes messages, or does not.
fn peer_behind(up: &Arc<AtomicBool>) -> ScriptedPeer {
    let up = up.clone();
    ScriptedPeer::new(move |_, _| if up.load(Ordering::SeqCst) { Verdict::Delivered } else { unreachable() })
}

/// A bench whose peer is down and for which nothing is pending any more.
async fn down_with_nothing_pending(up: &Arc<AtomicBool>, payload: &[u8]) -> (ForwarderBench, ScriptedPeer) {
    let mut bench = ForwarderBench::new();
    let peer = peer_behind(up);
    bench.start(&peer);
    let sequence = bench.accept("m", payload).await;
    until("it is down", async || bench.course.now().down_since.is_some()).await;
    bench.engine.settle(&party("b"), sequence, Outcome::Dropped).await.unwrap();
    (bench, peer)
}

/// The peer used to stay "down" until the next message for it, which might be next month.
#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_is_not_down_any_more_though_nothing_is_pending_for_it() {
    for len in [1, 512 << 10] {
        let up = Arc::default();
        let (bench, peer) = down_with_nothing_pending(&up, &vec![1; len]).await;
        tokio::time::sleep(20 * CAP).await;
        assert!(bench.course.now().down_since.is_some() && bench.course.last_error().is_some());
        let asked = peer.attempts(PROBE);
        assert!((10..=60).contains(&asked), "{asked} questions in 20 x RETRY_CAP");
        up.store(true, Ordering::SeqCst);
        let since = Instant::now();
        while bench.course.now().down_since.is_some() {
            assert!(
                since.elapsed() <= CAP + Duration::from_secs(1),
                "it is asked after RETRY_CAP at the latest"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(bench.course.last_error().is_none(), "an error that is over is not shown");
        let asked = peer.attempts(PROBE);
        tokio::time::sleep(20 * CAP).await;
        assert!(peer.attempts(PROBE) <= asked + 1, "a peer that is up is asked nothing");
        bench.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_an_attempt_is_told_whether_the_peer_answers() {
    let up = Arc::default();
    let (bench, _) = down_with_nothing_pending(&up, b"x").await;
    assert_eq!(bench.course.ask().await.unwrap_err().as_ref(), "no connection");
    up.store(true, Ordering::SeqCst);
    assert_eq!(bench.course.ask().await, Ok(()));
    assert!(bench.course.now().down_since.is_none(), "the state agrees with the answer");
    up.store(false, Ordering::SeqCst);
    assert!(bench.course.ask().await.is_err());
    assert!(bench.course.now().down_since.is_some());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shown_until_what_failed_has_gone_well() {
    let mut bench = ForwarderBench::new();
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let peer = ScriptedPeer::new(move |id, _| {
        if id != "bad" || is_well.load(Ordering::SeqCst) { Verdict::Delivered } else { trouble() }
    });
    bench.start(&peer);
    bench.accept("bad", b"x").await;
    until("it failed", async || bench.course.last_error().is_some()).await;
    bench.accept("good", b"x").await;
    bench.until_pending(1).await;
    tokio::time::sleep(CAP).await;
    assert_eq!(&*bench.course.last_error().unwrap().why, "trouble", "the bad one still waits");
    well.store(true, Ordering::SeqCst);
    bench.until_settled().await;
    until("it is over", async || bench.course.last_error().is_none()).await;
    bench.stop().await;
}
