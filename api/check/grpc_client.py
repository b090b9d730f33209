"""Calls both services over gRPC, with classes that protoc generates from the contracts.

    grpc_client.py ORDERS_ADDRESS PAYMENTS_ADDRESS

The generated classes are on PYTHONPATH.
"""

import sys
import uuid

import grpc
from google.rpc import error_details_pb2
from gozon.orders.v1 import orders_pb2, orders_pb2_grpc
from gozon.payments.v1 import payments_pb2, payments_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

orders_channel = grpc.insecure_channel(sys.argv[1])
payments_channel = grpc.insecure_channel(sys.argv[2])
orders = orders_pb2_grpc.OrdersServiceStub(orders_channel)
payments = payments_pb2_grpc.PaymentsServiceStub(payments_channel)
user = str(uuid.uuid4())


def fails(call, request, code, reason, fields=(), timeout=10):
    """The call must end with this status and reason, and name these fields."""
    try:
        call(request, timeout=timeout)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in rpc_status.from_call(error).details:
            detail.Unpack(info)
            detail.Unpack(bad_request)
        assert (info.reason, info.domain) == (reason, "gozon"), info
        found = tuple(violation.field for violation in bad_request.field_violations)
        assert found == tuple(fields), found
        return error
    raise AssertionError(f"{reason} was expected")


def test_accounts():
    call = payments.GetBalance
    request = payments_pb2.GetBalanceRequest(user_id=user)
    fails(call, request, grpc.StatusCode.NOT_FOUND, "account_not_found")
    account = payments.OpenAccount(payments_pb2.OpenAccountRequest(user_id=user)).account
    assert (account.user_id, account.balance, account.version) == (user, 0, 1)
    again = payments_pb2.OpenAccountRequest(user_id=user)
    fails(payments.OpenAccount, again, grpc.StatusCode.ALREADY_EXISTS, "account_exists")
    deposit = payments_pb2.DepositRequest(user_id=user, amount=500, idempotency_key="one")
    first, _ = payments.Deposit.with_call(deposit)
    second, second_call = payments.Deposit.with_call(deposit)
    assert first == second and first.account.balance == 500
    assert ("idempotency-replayed", "true") in second_call.initial_metadata()
    deposit.amount = 501
    failed = grpc.StatusCode.FAILED_PRECONDITION
    fails(payments.Deposit, deposit, failed, "idempotency_key_reused")
    entries = payments.ListEntries(payments_pb2.ListEntriesRequest(user_id=user)).entries
    assert [entry.amount for entry in entries] == [500]
    assert entries[0].kind == payments_pb2.ENTRY_KIND_DEPOSIT and entries[0].order_id == ""


def test_orders():
    watch = orders.WatchOrders(orders_pb2.WatchOrdersRequest(user_id=user))
    assert next(watch).WhichOneof("event") == "snapshot"
    metadata = [("x-request-id", "from-python"), ("traceparent", "not one")]
    request = orders_pb2.PlaceOrderRequest(user_id=user, amount=100, description="Чайник 🫖")
    placed, call = orders.PlaceOrder.with_call(request, metadata=metadata)
    assert ("x-request-id", "from-python") in call.initial_metadata()
    assert placed.order.status == orders_pb2.ORDER_STATUS_NEW
    change = next(watch).change
    assert change.order == placed.order and change.traceparent.startswith("00-")
    watch.cancel()

    request = orders_pb2.GetOrderRequest(user_id=user, order_id=placed.order.id)
    assert orders.GetOrder(request).order == placed.order
    orders.PlaceOrder(orders_pb2.PlaceOrderRequest(user_id=user, amount=1, description="cup"))
    request = orders_pb2.ListOrdersRequest(user_id=user, page_size=1)
    page = orders.ListOrders(request)
    assert page.orders[0].description == "cup"
    request.page_token = page.next_page_token
    page = orders.ListOrders(request)
    assert page.orders[0] == placed.order and page.next_page_token == ""
    request = orders_pb2.ListOrdersRequest(
        user_id=user, status=orders_pb2.ORDER_STATUS_FINISHED
    )
    assert len(orders.ListOrders(request).orders) == 0


def test_bad_input():
    bad = grpc.StatusCode.INVALID_ARGUMENT

    def order(**fields):
        fields = {"user_id": user, "amount": 1, "description": "x"} | fields
        return orders_pb2.PlaceOrderRequest(**fields)

    place, listing = orders.PlaceOrder, orders_pb2.ListOrdersRequest
    fails(place, order(user_id=""), bad, "missing_user_id", ["user_id"])
    fails(place, order(user_id="me"), bad, "invalid_user_id", ["user_id"])
    for amount in (0, -1, 10**12 + 1, 2**63 - 1, -(2**63)):
        fails(place, order(amount=amount), bad, "validation_failed", ["amount"])
    both = order(amount=0, description="")
    fails(place, both, bad, "validation_failed", ["amount", "description"])
    fails(place, order(description="я" * 1001), bad, "validation_failed", ["description"])
    fails(place, order(description="a\0b"), bad, "validation_failed", ["description"])
    fails(place, order(idempotency_key=""), bad, "invalid_idempotency_key", ["idempotency_key"])
    fails(place, order(idempotency_key="a b"), bad, "invalid_idempotency_key", ["idempotency_key"])
    fails(place, order(description="x" * 70_000), bad, "body_too_large")
    request = orders_pb2.GetOrderRequest(user_id=user, order_id="1")
    fails(orders.GetOrder, request, bad, "invalid_order_id", ["order_id"])
    request = orders_pb2.GetOrderRequest(user_id=user, order_id=str(uuid.uuid4()))
    fails(orders.GetOrder, request, grpc.StatusCode.NOT_FOUND, "order_not_found")
    fails(orders.ListOrders, listing(user_id=user, page_size=101), bad, "validation_failed", ["page_size"])
    fails(orders.ListOrders, listing(user_id=user, page_size=-1), bad, "validation_failed", ["page_size"])
    fails(orders.ListOrders, listing(user_id=user, page_token="x"), bad, "invalid_cursor", ["page_token"])
    fails(orders.ListOrders, listing(user_id=user, status=7), bad, "validation_failed", ["status"])
    fails(payments.OpenAccount, payments_pb2.OpenAccountRequest(), bad, "missing_user_id", ["user_id"])

    # Bytes that are no message.
    raw = orders_channel.unary_unary("/gozon.orders.v1.OrdersService/PlaceOrder")
    for garbage in (b"\xff\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"):
        fails(raw, garbage, bad, "invalid_message")
    unknown = orders_channel.unary_unary("/gozon.orders.v1.OrdersService/Steal")
    try:
        unknown(b"", timeout=10)
        raise AssertionError("there is no such method")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def test_deadline():
    """A watch has no end but its deadline."""
    watch = orders.WatchOrders(orders_pb2.WatchOrdersRequest(user_id=user), timeout=1)
    try:
        for _ in watch:
            pass
        raise AssertionError("the watch ended well")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


def test_health_and_reflection():
    for channel, name, methods in (
        (orders_channel, "gozon.orders.v1.OrdersService", 4),
        (payments_channel, "gozon.payments.v1.PaymentsService", 4),
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", name):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        try:
            health.Check(health_pb2.HealthCheckRequest(service="other"))
            raise AssertionError("there is no such service")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        reflection = ProtoReflectionDescriptorDatabase(channel)
        services = reflection.get_services()
        assert name in services and "grpc.health.v1.Health" in services, services
        file = reflection.FindFileContainingSymbol(name)
        assert len(file.service[0].method) == methods


for test in (test_accounts, test_orders, test_bad_input, test_deadline, test_health_and_reflection):
    test()
    print(f"{test.__name__}: ok")
