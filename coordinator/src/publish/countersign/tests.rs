use coord_proto::ids::{Revision, Seq};
use coord_proto::rollout::{RolloutPhase, StableRecord};
use coord_proto::signature::KeyId;
use coord_proto::store::memory::MemoryStore;

use super::*;
use crate::publish::tests::{actor, app, deploy, end_spec, keys, led, put, request};
use crate::publish::{Published, Request, Signing, publish};
use crate::sign::Signer;

const NOW: i64 = 1_700_000_000;

/// Three people, of whom two must sign.
struct Bench {
    store: MemoryStore,
    people: [Signer; 3],
    trust: Trust,
}

async fn bench() -> Bench {
    let people = std::array::from_fn(|_| Signer::generate().expect("key"));
    let trust = trust_of(2, &people);
    Bench { store: led().await, people, trust }
}

fn trust_of(threshold: usize, people: &[Signer]) -> Trust {
    let lines: Vec<String> = people.iter().map(Signer::public_line).collect();
    Trust::parse(&format!("version = 1\nenvironment = \"production\"\nthreshold = {threshold}\nkeys = {lines:?}\n")).expect("trust file")
}

impl Bench {
    async fn publish(&self, by: &[Signer], change: impl FnOnce(&mut Request<'_>)) -> Result<Published, PublishError> {
        let deploy = deploy();
        let mut request = request(&deploy, "alice");
        change(&mut request);
        publish(&self.store, &keys(), &Signing { signers: by, trust: Some(&self.trust) }, &request, NOW).await
    }

    async fn waiting(&self) -> ReleaseId {
        self.publish(&self.people[..1], |_| ()).await.expect("published").spec.release
    }

    async fn pending(&self, release: &ReleaseId) -> Result<Pending, CountersignError> {
        Pending::look(&self.store, &keys(), &self.trust, (&app(), release)).await
    }

    async fn sign(&self, release: &ReleaseId, by: &Signer) -> Result<Added, CountersignError> {
        let pending = self.pending(release).await?;
        let signature = by.sign(&pending.envelope.manifest, pending.manifest.seq).expect("signed");
        self.add(release, &[(by.public().clone(), signature)]).await
    }

    async fn add(&self, release: &ReleaseId, signatures: &[(PublicKey, String)]) -> Result<Added, CountersignError> {
        let approval = Approval { app: &app(), release, signatures, supersede: false, by: actor("bob") };
        add(&self.store, &keys(), &self.trust, &approval).await
    }

    async fn spec(&self) -> Option<RolloutSpec> {
        read_record(&self.store, &keys().key(&Key::RolloutSpec(app()))).await.expect("read").map(|(spec, _)| spec)
    }

    async fn record(&self, release: &ReleaseId) -> ReleaseRecord {
        read_record(&self.store, &keys().key(&Key::Release(app(), release.clone()))).await.expect("read").expect("a record").0
    }

    async fn revision(&self) -> Revision {
        self.store.identity().await.expect("identity").revision
    }

    async fn opens(&self, seq: Seq) -> bool {
        let listed = self.store.list(&keys().key(&Key::Manifest(app(), seq))).await.expect("list").entries;
        let envelope = gather(&listed, &keys(), &app(), seq).expect("an envelope").expect("stored");
        self.trust.open(&envelope.manifest, &envelope.signatures).is_ok()
    }
}

#[tokio::test]
async fn a_release_with_too_few_signatures_waits_and_the_last_one_rolls_it_out() {
    let bench = bench().await;
    let published = bench
        .publish(&bench.people[..1], |r| {
            r.serial = Some("50%".parse().expect("serial"));
            r.limit = Some("role=web".parse().expect("selector"));
        })
        .await
        .expect("published");
    let release = published.spec.release.clone();
    assert_eq!((published.missing, bench.spec().await), (1, None), "nothing is rolled out");
    assert!(!bench.opens(Seq(1)).await, "no server would take it");
    assert_eq!(bench.record(&release).await.waits.expect("it waits").signatures, 1);
    let before = bench.revision().await;
    let Added::Complete(spec) = bench.sign(&release, &bench.people[2]).await.expect("signed") else { panic!("complete") };
    assert_eq!(bench.revision().await.0, before.0 + 1, "one transaction");
    assert_eq!(bench.spec().await.as_ref(), Some(&*spec));
    assert_eq!((spec.seq, spec.policy.serial.to_string(), spec.by.user.as_str()), (Seq(1), "50%".into(), "bob"));
    assert_eq!(spec.limit, Some("role=web".parse().expect("selector")), "what was asked for at publishing");
    assert_eq!(bench.record(&release).await.waits, None);
    assert!(bench.opens(Seq(1)).await);
    let events = bench.store.list(&keys().events()).await.expect("list").entries;
    let words: Vec<AuditEvent> = events.iter().map(|e| e.record().expect("an event")).collect();
    assert!(words.iter().any(|e| e.by.user == "bob" && e.what.contains(&bench.people[2].public().id().to_string())), "{words:?}");
}

#[tokio::test]
async fn signing_twice_with_one_key_says_so_and_changes_nothing() {
    let bench = bench().await;
    let release = bench.waiting().await;
    let before = bench.revision().await;
    assert_eq!(bench.sign(&release, &bench.people[0]).await.expect("no error"), Added::Already { missing: 1 });
    assert_eq!(bench.revision().await, before);
    bench.sign(&release, &bench.people[1]).await.expect("signed");
    let before = bench.revision().await;
    assert_eq!(bench.sign(&release, &bench.people[1]).await.expect("no error"), Added::Already { missing: 0 });
    assert_eq!(bench.revision().await, before);
    // A third one may still be added; the rollout is not begun again.
    let spec = bench.spec().await;
    assert_eq!(bench.sign(&release, &bench.people[2]).await.expect("signed"), Added::Another);
    assert_eq!(bench.spec().await, spec);
}

#[tokio::test]
async fn a_key_that_is_not_listed_and_a_signature_over_other_bytes_change_nothing() {
    let bench = bench().await;
    let release = bench.waiting().await;
    let before = bench.revision().await;
    let revoked = Signer::generate().expect("key");
    assert!(matches!(bench.sign(&release, &revoked).await, Err(CountersignError::NotListed { .. })));
    let second = &bench.people[1];
    let other = second.sign(b"other bytes", Seq(1)).expect("signed");
    let added = bench.add(&release, &[(second.public().clone(), other)]).await;
    assert!(matches!(added, Err(CountersignError::Invalid { .. })), "{added:?}");
    assert_eq!((bench.revision().await, bench.spec().await), (before, None));
}

#[tokio::test]
async fn three_of_three_wait_for_two() {
    let mut bench = bench().await;
    bench.trust = trust_of(3, &bench.people);
    let release = bench.waiting().await;
    assert_eq!(bench.sign(&release, &bench.people[1]).await.expect("signed"), Added::Waits { missing: 1 });
    assert_eq!(bench.record(&release).await.waits.expect("it waits").signatures, 1);
    assert!(bench.spec().await.is_none() && !bench.opens(Seq(1)).await);
    assert!(matches!(bench.sign(&release, &bench.people[2]).await.expect("signed"), Added::Complete(_)));
}

#[tokio::test]
async fn what_waits_blocks_nobody_and_a_higher_one_rolled_out_meanwhile_refuses_it() {
    let bench = bench().await;
    let release = bench.waiting().await;
    let second = bench.publish(&bench.people[..2], |_| ()).await.expect("nothing is in its way");
    assert_eq!((second.missing, second.spec.seq), (0, Seq(2)));
    // While that one goes on, another may begin to wait.
    let third = bench.waiting().await;
    for ended in [false, true] {
        if ended {
            end_spec(&bench.store, &second.spec, RolloutPhase::RolledBack).await;
        }
        let before = bench.revision().await;
        let refused = bench.sign(&release, &bench.people[1]).await.expect_err("overtaken");
        assert!(matches!(refused, CountersignError::Overtaken { .. }), "{refused}");
        let failure = refused.failure();
        assert_eq!((failure.exit, bench.revision().await), (Exit::Refused, before));
        assert!(failure.hint.contains("publish again"), "{failure:?}");
    }
    // Neither is it forgotten when an operator went back below both.
    let back = RolloutSpec { seq: Seq(0), ..second.spec.clone() };
    put(&bench.store, Key::RolloutSpec(app()), coord_proto::record::encode(&back)).await;
    assert!(matches!(bench.sign(&release, &bench.people[1]).await, Err(CountersignError::Overtaken { .. })));
    assert!(matches!(bench.sign(&third, &bench.people[1]).await, Ok(Added::Complete(_))), "a waiting one overtakes nobody");
}

#[tokio::test]
async fn the_last_signature_is_refused_while_another_rollout_goes_on() {
    let bench = bench().await;
    let first = bench.publish(&bench.people[..2], |_| ()).await.expect("published");
    let release = bench.waiting().await;
    let refused = bench.sign(&release, &bench.people[1]).await.expect_err("one goes on");
    assert!(matches!(refused, CountersignError::Publish(PublishError::Active { .. })), "{refused}");
    end_spec(&bench.store, &first.spec, RolloutPhase::Succeeded).await;
    let stable = StableRecord { seq: Seq(1), release: first.spec.release.clone(), back_from: None };
    put(&bench.store, Key::Stable(app()), coord_proto::record::encode(&stable)).await;
    assert!(matches!(bench.sign(&release, &bench.people[1]).await, Ok(Added::Complete(_))));
}

#[tokio::test]
async fn what_nobody_vouches_for_is_not_even_shown() {
    let bench = bench().await;
    let release = bench.waiting().await;
    let seq = bench.record(&release).await.seq;
    // Whoever owns etcd puts a manifest there that no trusted key has signed.
    let manifest = bench.pending(&release).await.expect("pending").envelope.manifest;
    let foreign = Signer::generate().expect("key").sign(&manifest, seq).expect("signed");
    put(&bench.store, Key::Manifest(app(), seq), Envelope { manifest, signatures: vec![foreign] }.encode()).await;
    let refused = bench.pending(&release).await.expect_err("refused");
    let for_signatures = matches!(&refused, CountersignError::Unvouched { source: TrustError::Signatures { .. }, .. });
    assert!(for_signatures, "{refused:?}");
    assert!(matches!(bench.pending(&"none".parse().expect("release")).await, Err(CountersignError::Unknown { .. })));
}

#[tokio::test]
async fn a_release_under_another_s_name_is_not_signed_for_it() {
    let bench = bench().await;
    let (first, second) = (bench.waiting().await, bench.waiting().await);
    let record = bench.record(&second).await;
    put(&bench.store, Key::Release(app(), first.clone()), coord_proto::record::encode(&record)).await;
    let refused = bench.pending(&first).await.expect_err("refused");
    assert!(matches!(refused, CountersignError::Misfiled { .. }), "{refused}");
}

#[tokio::test]
async fn one_key_of_two_formats_or_ids_is_no_second_signature() {
    let bench = bench().await;
    let release = bench.waiting().await;
    let pending = bench.pending(&release).await.expect("pending");
    let again = bench.people[0].sign(&pending.envelope.manifest, Seq(1)).expect("signed");
    // As somebody would who can write into etcd.
    put(&bench.store, Key::ManifestSignature(app(), Seq(1), KeyId::of(&[9; 32])), again.into_bytes()).await;
    assert_eq!(bench.pending(&release).await.expect("pending").missing, 1);
    assert!(!bench.opens(Seq(1)).await);
}
