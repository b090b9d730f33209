//! `POST /accounts/deposit`: top up.

use async_trait::async_trait;
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use gozon_contract::{Clock, Money, UserId};
use gozon_http::{Answer, Answered, CurrentUser, Fields, Problem};
use gozon_messaging::{Decision, Failure, Mode, UseCase};
use gozon_service::IdempotencyKey;
use gozon_store::Reader;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    balance::account_not_found,
    ledger::{Account, DepositRefused, Ledger},
    service::App,
    sql,
};

/// A top-up.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Deposit {
    /// How much to add, in minor units.
    pub(crate) amount: Money,
}

/// Tops up accounts.
pub(crate) struct Deposits {
    pub(crate) clock: Clock,
}

#[async_trait]
impl UseCase for Deposits {
    type Command = (UserId, Deposit);
    type Reply = Answer;

    async fn decide(
        &self,
        reader: &mut Reader,
        _: Mode,
        deposits: &[&(UserId, Deposit)],
    ) -> Result<Decision<Answer>, Failure> {
        let accounts = sql::accounts_of(reader, deposits.iter().map(|(user, _)| *user)).await?;
        let now = self.clock.now();
        let mut ledger = Ledger::open(accounts, now);
        let reply =
            |(user, deposit): &&(UserId, Deposit)| match ledger.deposit(*user, deposit.amount) {
                Ok(account) => Answer::ok(&account),
                Err(refused) => Answer::Refused(refused.into()),
            };
        let replies = deposits.iter().map(reply).collect();
        let writes = sql::store(&[], &ledger.close(), now);
        Ok(Decision { writes, ..Decision::replies(replies) })
    }
}

impl From<DepositRefused> for Problem {
    fn from(refused: DepositRefused) -> Self {
        match refused {
            DepositRefused::NoAccount => account_not_found(),
            DepositRefused::BalanceLimit => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "balance_limit",
                "the balance would pass 9007199254740991 minor units",
            ),
        }
    }
}

/// Top up
///
/// Adds `amount` to the user's balance.
#[utoipa::path(
    post,
    path = "/accounts/deposit",
    tag = "accounts",
    params(
        ("X-User-Id" = Uuid, Header, description = "The user"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "A repeat with the same key does nothing twice"),
    ),
    request_body = Deposit,
    responses(
        (status = 200, description = "The account after it", body = Account),
        (status = 400, description = "`missing_user_id`, `invalid_user_id`, `invalid_json`, `invalid_idempotency_key`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`account_not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`validation_failed`, `balance_limit`, `idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`service_unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn deposit(
    State(app): State<App>,
    CurrentUser(user): CurrentUser,
    headers: HeaderMap,
    mut fields: Fields,
) -> Result<Answered, Problem> {
    let amount = fields.money("amount");
    let request = Deposit { amount: fields.finish(amount)? };
    let key = IdempotencyKey::of(&headers, "POST /accounts/deposit", &request)?;
    app.deposit.submit(user, key, (user, request)).await
}
