# The figures of a report of `gozon bench --json --processes …`.

# To three digits.
def rounded: if . >= 100 then round elif . >= 10 then . * 10 | round / 10 else . * 100 | round / 100 end;

# Microseconds of processor time per order: of one process, or of each service.
def services: .processor.us_per_order | [.shop, .gateway, .orders, .payments | values];

def together: .processor.us_per_order | del(.["load generator"]) | add;

# A load as `load_like` in shop.sh takes it, for a table.
def load($load): if $load == "quarter" then "\(.rate)/s, a quarter of the peak"
    elif $load | endswith("/s") then $load
    elif $load == "1" then "1 client" else "\($load) clients" end;

def columns: ["accepted/s", "settled/s", "busy %", "201 p50", "p99", "frame p50", "p99",
    "services", "database", "broker", "together", "load generator"];

def figures: .processor.us_per_order as $us | [
    .accepted_per_second, .settled_per_second, .processor.busy * 100,
    .accept_ms.p50, .accept_ms.p99, .settle_ms.p50, .settle_ms.p99,
    (services | add), $us.database, $us.broker, together, $us["load generator"]];

def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;

# The median of each figure over several reports.
def medians: map(figures) | transpose | map(if .[0] == null then null else median end);

def row: "| " + join(" | ") + " |";
def heading($first): ($first + columns | row), (($first | map("---")) + (columns | map("---:")) | row);

# A row with text for each figure; `null` where a setup has no such process.
def text: map(if . == null then "" else rounded | tostring end);
