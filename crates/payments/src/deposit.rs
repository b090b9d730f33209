//! Topping up accounts.

use async_trait::async_trait;
use axum::http::StatusCode;
use gozon_api::payments::{Deposit, ToppedUp, account_not_found};
use gozon_contract::{Clock, UserId};
use gozon_http::{Answer, Problem};
use gozon_messaging::{Decision, Failure, Mode, UseCase};
use gozon_store::Reader;

use crate::{
    ledger::{DepositRefused, Ledger},
    sql,
};

/// Tops up accounts.
pub(crate) struct Deposits {
    pub(crate) clock: Clock,
}

#[async_trait]
impl UseCase for Deposits {
    type Command = (UserId, Deposit);
    type Reply = Answer<ToppedUp>;

    async fn decide(
        &self,
        reader: &mut Reader,
        _: Mode,
        deposits: &[&(UserId, Deposit)],
    ) -> Result<Decision<Answer<ToppedUp>>, Failure> {
        let accounts = sql::accounts_of(reader, deposits.iter().map(|(user, _)| *user)).await?;
        let now = self.clock.now();
        let mut ledger = Ledger::open(accounts, now);
        let reply =
            |(user, deposit): &&(UserId, Deposit)| match ledger.deposit(*user, deposit.amount) {
                Ok(account) => Ok(ToppedUp(account)),
                Err(refused) => Err(refused.into()),
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
