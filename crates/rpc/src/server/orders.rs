//! `gozon.orders.v1.OrdersService`.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use gozon_api::{
    OrdersApi,
    live::{Update, Watch, WatchOrders, restarting, too_slow},
    orders::{ListOrders, NewOrder, read_cursor},
};
use gozon_contract::{Description, Money, OrderId};
use gozon_http::{Problem, RequestContext};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Refusal, answer, answered, call, deadline, key, out_of_range, page_size, page_token};
use crate::{
    convert::{order, read_order_status, read_timestamp, timestamp},
    proto::orders::{
        GetOrderRequest, GetOrderResponse, ListOrdersRequest, ListOrdersResponse, OrderChange,
        OrderStatus, PlaceOrderRequest, PlaceOrderResponse, Snapshot, WatchOrdersRequest,
        WatchOrdersResponse, orders_service_server::OrdersService, watch_orders_response::Event,
    },
    status::status,
};

/// How often a watch on which nothing happens says that it is up to date.
const UP_TO_DATE_INTERVAL: Duration = Duration::from_secs(20);

pub(super) struct Server {
    pub orders: Arc<dyn OrdersApi>,
    /// Ends the watches.
    pub stop: CancellationToken,
}

#[async_trait]
impl OrdersService for Server {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        answer(request, |context, message| self.place(context, message)).await
    }

    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        answer(request, |context, message| async move {
            let call = call(context, &message.user_id)?;
            let id: OrderId = message
                .order_id
                .parse()
                .map_err(|_| Problem::unreadable("invalid_order_id", "an order's id is a UUID"))?;
            let found = self.orders.get(call, id).await?;
            Ok(Response::new(GetOrderResponse { order: Some(order(&found)) }))
        })
        .await
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        answer(request, |context, message| self.list(context, message)).await
    }

    type WatchOrdersStream = BoxStream<'static, Result<WatchOrdersResponse, Status>>;

    async fn watch_orders(
        &self,
        request: Request<WatchOrdersRequest>,
    ) -> Result<Response<Self::WatchOrdersStream>, Status> {
        answer(request, |context, message| async move {
            let deadline = context.deadline;
            let call = call(context, &message.user_id)?;
            let resume_from = message.resume_from.as_ref().map(|at| {
                let detail = "must be a time";
                let invalid = || Problem::invalid(vec![out_of_range("resume_from", &detail)]);
                read_timestamp(at).ok_or_else(invalid)
            });
            let resume_from = resume_from.transpose()?;
            let query = WatchOrders { resume_from, up_to_date: Some(UP_TO_DATE_INTERVAL) };
            let Watch { updates, overflow } = self.orders.watch(call, query).await?;
            let stop = self.stop.clone();
            let end = async move {
                let timeout = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => pending().await,
                    }
                };
                Err(tokio::select! {
                    () = overflow.cancelled() => too_slow(),
                    () = stop.cancelled() => restarting(),
                    () = timeout => deadline::timed_out(),
                })
            };
            let updates = updates
                .map_ok(|updates| {
                    stream::iter(updates).map(|update| Ok::<_, Problem>(response(update)))
                })
                .try_flatten()
                .chain(stream::once(async { Err(restarting()) }));
            let responses = stream::select(updates, stream::once(end));
            Ok(Response::new(responses.map_err(|problem| status(&problem)).boxed()))
        })
        .await
    }
}

impl Server {
    async fn place(
        &self,
        context: RequestContext,
        message: PlaceOrderRequest,
    ) -> Result<Response<PlaceOrderResponse>, Refusal> {
        let call = call(context, &message.user_id)?;
        let amount =
            Money::try_from(message.amount).map_err(|error| out_of_range("amount", &error));
        let description = Description::try_from(message.description)
            .map_err(|error| out_of_range("description", &error));
        let new = match (amount, description) {
            (Ok(amount), Ok(description)) => NewOrder { amount, description },
            (amount, description) => {
                let errors = [amount.err(), description.err()];
                return Err(Problem::invalid(errors.into_iter().flatten().collect()).into());
            }
        };
        let key = key(message.idempotency_key)?;
        let placed = self.orders.place(call, new, key).await?;
        answered(placed, |placed| PlaceOrderResponse { order: Some(order(&placed.0)) })
    }

    async fn list(
        &self,
        context: RequestContext,
        message: ListOrdersRequest,
    ) -> Result<Response<ListOrdersResponse>, Refusal> {
        let call = call(context, &message.user_id)?;
        let limit = page_size(message.page_size)?;
        let status = OrderStatus::try_from(message.status).map_err(|_| {
            Problem::invalid(vec![out_of_range("status", &"must be NEW, FINISHED or CANCELLED")])
        })?;
        let before = page_token(&message.page_token, read_cursor)?;
        let query = ListOrders { before, status: read_order_status(status), limit };
        let page = self.orders.list(call, query).await?;
        Ok(Response::new(ListOrdersResponse {
            orders: page.items.iter().map(order).collect(),
            next_page_token: page.next_cursor.unwrap_or_default(),
        }))
    }
}

fn response(update: Update) -> WatchOrdersResponse {
    let (as_of, event) = match update {
        Update::Snapshot { orders, as_of } => {
            let orders = orders.iter().map(order).collect();
            (as_of, Some(Event::Snapshot(Snapshot { orders })))
        }
        Update::Change(frame) => {
            let traceparent = frame.traceparent.map(|trace| trace.to_string());
            let change = OrderChange {
                order: Some(order(&frame.order)),
                traceparent: traceparent.unwrap_or_default(),
            };
            (frame.as_of, Some(Event::Change(change)))
        }
        Update::UpToDate(at) => (at, None),
    };
    WatchOrdersResponse { as_of: Some(timestamp(as_of)), event }
}
