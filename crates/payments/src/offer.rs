//! What the service offers, over its own database.

use async_trait::async_trait;
use gozon_api::{
    Call, PaymentsApi,
    payments::{Deposit, ListEntries, Opened, ToppedUp, account_not_found, cursor},
};
use gozon_contract::{Account, Entry};
use gozon_http::{Answered, IdempotencyKey, Page, Problem};
use gozon_service::{KeyedRequest, store_problem};

use crate::{open_account::OpenAccount, service::App, sql};

#[async_trait]
impl PaymentsApi for App {
    async fn open_account(
        &self,
        call: Call,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Opened>, Problem> {
        let request = key.map(|key| KeyedRequest::new(key, "POST /accounts", &()));
        let command = OpenAccount { user: call.user, now: self.clock.now() };
        self.open_account.submit(call.user, request, command).await
    }

    async fn deposit(
        &self,
        call: Call,
        deposit: Deposit,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<ToppedUp>, Problem> {
        let request = key.map(|key| KeyedRequest::new(key, "POST /accounts/deposit", &deposit));
        self.deposit.submit(call.user, request, (call.user, deposit)).await
    }

    async fn balance(&self, call: Call) -> Result<Account, Problem> {
        let mut reader = self.db.read().await.map_err(store_problem)?;
        let account = sql::find_account(&mut reader, call.user).await.map_err(store_problem)?;
        account.ok_or_else(account_not_found)
    }

    async fn entries(&self, call: Call, query: ListEntries) -> Result<Page<Entry>, Problem> {
        let before = query.before.unwrap_or(i64::MAX);
        let mut reader = self.db.read().await.map_err(store_problem)?;
        let entries = sql::list_entries(&mut reader, call.user, before, query.limit + 1)
            .await
            .map_err(store_problem)?;
        // An account without entries and no account look alike in the ledger.
        if entries.is_empty()
            && sql::find_account(&mut reader, call.user).await.map_err(store_problem)?.is_none()
        {
            return Err(account_not_found());
        }
        Ok(Page::cut(entries, query.limit, |entry| cursor(entry.seq)))
    }
}
