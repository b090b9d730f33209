//! A client: one user's requests, repeated until they are answered.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    dice::Dice,
    http::{Reply, call, request},
    log,
    notes::{Notes, What, Write},
    plan::Plan,
    run::violation,
};

/// The most attempts at one request.
const MAX_ATTEMPTS: u32 = 8;
/// How long a client waits for an answer, in milliseconds; one of these.
const PATIENCE: [u64; 4] = [300, 2_000, 10_000, 40_000];

/// A user.
pub(crate) struct Client {
    pub number: usize,
    pub user: Uuid,
    pub other: Uuid,
    pub notes: Notes,
    pub dice: Dice,
    ids: Vec<String>,
}

enum Answer {
    Done(Reply),
    /// Nothing was done, and it need not be tried again.
    Refused,
    /// Nothing was done; later it may be.
    NotNow,
    Unknown,
}

impl Client {
    pub fn new(plan: &Plan, number: usize, users: &[Uuid], notes: Notes) -> Self {
        let dice = Dice::new(plan.seed, 100 + number as u64);
        let (user, other) = (users[number], users[(number + 1) % users.len()]);
        Self { number, user, other, notes, dice, ids: Vec::new() }
    }

    /// All that the user does.
    pub async fn run(mut self, plan: Plan) {
        let pause = 2 * plan.busy_until / (plan.requests as u64 + 1);
        if self.dice.chance(900) {
            self.write(What::Account, 0).await;
        }
        for number in 0..plan.requests {
            sleep(self.dice.millis(0, pause)).await;
            match self.dice.below(100) {
                0..60 => self.write(What::Order, number).await,
                60..85 => self.write(What::Deposit, number).await,
                85..90 => self.write(What::Account, number).await,
                _ => self.read().await,
            }
        }
        // Much later, the same key still stands for the same answer.
        if let Some(mut write) = self.notes.first_keyed(self.user) {
            self.again(&mut write).await;
        }
        self.notes.end();
    }

    async fn write(&mut self, what: What, number: usize) {
        let place = i64::try_from(self.number * 1_000 + number).unwrap_or(0);
        let (amount, marker) = match what {
            What::Account => (0, "account".to_owned()),
            What::Deposit => (3_000 + place, format!("top-up {place}")),
            What::Order => {
                let amount = i64::try_from(self.dice.between(1, 4_000)).unwrap_or(1);
                (amount, format!("order {place}"))
            }
        };
        let key = self.dice.chance(650).then(|| format!("{}-{what:?}-{number}", self.number));
        let mut write = Write {
            what,
            user: self.user,
            marker,
            amount,
            key,
            sure: 0,
            maybe: 0,
            id: None,
            answer: None,
        };
        for attempt in 0..MAX_ATTEMPTS {
            match self.attempt(&mut write).await {
                Answer::Done(reply) => {
                    if attempt > 0 && write.maybe > 0 {
                        log::sometimes("an answer was lost and asked for again");
                    }
                    Self::done(&mut write, &reply);
                    if write.key.is_some() && self.dice.chance(250) {
                        self.again(&mut write).await;
                    }
                    break;
                }
                Answer::Refused => break,
                Answer::NotNow => {}
                Answer::Unknown => {
                    write.maybe += 1;
                    if write.key.is_none() && self.dice.chance(500) {
                        break;
                    }
                }
            }
            sleep(self.dice.millis(50, 1_500)).await;
        }
        let id = write.id.clone();
        self.notes.add(write);
        if let Some(id) = id {
            self.get(&id).await;
            self.ids.push(id);
        }
    }

    async fn attempt(&mut self, write: &mut Write) -> Answer {
        let (path, body) = match write.what {
            What::Account => ("/accounts", None),
            What::Deposit => ("/accounts/deposit", Some(json!({"amount": write.amount}))),
            What::Order => {
                ("/orders", Some(json!({"amount": write.amount, "description": write.marker})))
            }
        };
        let asked = request("POST", path, self.user, write.key.as_deref(), body.as_ref());
        let Some(reply) = self.call(asked).await else { return Answer::Unknown };
        let code = if reply.status >= 400 { reply.code() } else { String::new() };
        match (reply.status, write.what, code.as_str()) {
            (201, What::Account | What::Order, _) | (200, What::Deposit, _) => Answer::Done(reply),
            (409, What::Account, "account_exists") | (404, What::Deposit, "account_not_found") => {
                Answer::Refused
            }
            (503, What::Order, "too_many_unsettled") if write.key.is_some() && write.sure > 0 => {
                violation(format!("{}: a repeat was taken for a new order", write.marker));
                Answer::Refused
            }
            (503, What::Order, "too_many_unsettled") => {
                log::sometimes("new orders were refused");
                Answer::NotNow
            }
            (503, _, "upstream_unavailable" | "overloaded") => Answer::NotNow,
            (502..=504, _, _) => Answer::Unknown,
            (status, what, code) => {
                violation(format!("{what:?} {}: {status} {code}", write.marker));
                Answer::Refused
            }
        }
    }

    async fn call(
        &mut self,
        asked: hyper::Request<http_body_util::Full<hyper::body::Bytes>>,
    ) -> Option<Reply> {
        let gateway = usize::try_from(self.dice.below(2)).unwrap_or(0);
        let patience = Duration::from_millis(self.dice.pick(&PATIENCE));
        let what = log::is_recording().then(|| format!("{} {}", asked.method(), asked.uri()));
        let reply = call(gateway, asked, patience).await;
        if let Some(what) = what {
            let status = reply.as_ref().map(|reply| reply.status);
            log::note(format_args!(
                "user {}: {what} over gateway-{}: {status:?}",
                self.number,
                gateway + 1
            ));
        }
        reply
    }

    fn done(write: &mut Write, reply: &Reply) {
        write.sure += 1;
        if reply.headers.contains_key("idempotency-replayed") {
            log::sometimes("a repeat met its idempotency key");
        }
        if let Some(first) = &write.answer
            && write.key.is_some()
            && *first != reply.body
        {
            violation(format!("{}: the same key was answered differently", write.marker));
        }
        if write.what == What::Order {
            let order = reply.json();
            if order["description"] != write.marker.as_str() || order["amount"] != write.amount {
                violation(format!("{}: another order was answered: {order}", write.marker));
            }
            write.id = order["id"].as_str().map(str::to_owned);
        }
        write.answer.get_or_insert_with(|| reply.body.clone());
    }

    /// The same again, and with the same key something else.
    async fn again(&mut self, write: &mut Write) {
        if let Answer::Done(reply) = self.attempt(write).await {
            Self::done(write, &reply);
        }
        if write.what == What::Order && self.dice.chance(300) {
            let body = json!({"amount": write.amount + 1, "description": "something else"});
            let asked = request("POST", "/orders", self.user, write.key.as_deref(), Some(&body));
            if let Some(reply) = self.call(asked).await
                && reply.status < 502
                && reply.code() != "idempotency_key_reused"
            {
                violation(format!("{}: its key was taken for something else", write.marker));
            }
        }
    }

    async fn read(&mut self) {
        let Some(id) = self.ids.last().cloned() else { return };
        self.get(&id).await;
        let asked = request("GET", &format!("/orders/{id}"), self.other, None, None);
        if let Some(reply) = self.call(asked).await
            && reply.status < 502
            && reply.status != 404
        {
            violation(format!("another user got order {id}: {}", reply.status));
        }
        let asked = request("GET", "/accounts/balance", self.user, None, None);
        if let Some(reply) = self.call(asked).await
            && !matches!(reply.status, 200 | 404 | 502..=504)
        {
            violation(format!("a balance: {}", reply.status));
        }
    }

    /// An order that was placed is there, and does not go back.
    async fn get(&mut self, id: &str) {
        let known = self.notes.version(id);
        let asked = request("GET", &format!("/orders/{id}"), self.user, None, None);
        let Some(reply) = self.call(asked).await else { return };
        match reply.status {
            200 => {
                let order = reply.json();
                let version = order["version"].as_i64().unwrap_or(0);
                if version < known {
                    violation(format!("order {id} went back from {known} to {version}"));
                }
                self.notes.told(id, version);
            }
            502..=504 => {}
            status => violation(format!("order {id}, which was placed: {status}")),
        }
    }
}
