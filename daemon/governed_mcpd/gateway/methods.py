"""The requests that MCP knows, in every protocol version. A request that is not here might have any effect: refused.

A test compares the tables with those of mcp-types: importing that package would be most of a server's start.
"""

CLIENT_REQUESTS = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
# Of calls that were let through as tasks, and of what a server asked for as one (2025-11-25): to look at it or end it.
TASK_REQUESTS = frozenset({"tasks/cancel", "tasks/get", "tasks/list", "tasks/result"})
SERVER_REQUESTS = frozenset({"elicitation/create", "ping", "roots/list", "sampling/createMessage"})
# Requests whose result is content for the model, and the member that names it. Other results are catalogues and the
# like: looked through as well, and told of where something is found.
CONTENT = {"resources/read": "uri", "prompts/get": "name", "tasks/result": "taskId"}
# What has no answer is called so, in every version. A reader that looks methods up without asking for the id would do
# what a request of any other name says.
NOTIFICATION = "notifications/"
# Server's requests that put text before a model or the user.
SPEAKING = frozenset({"sampling/createMessage", "elicitation/create"})
LIST_CHANGED = "notifications/tools/list_changed"
CANCELLED = "notifications/cancelled"
BATCH_VERSIONS = frozenset({"2025-03-26"})  # batches came with this revision, and went with the next
VERSION_META = "io.modelcontextprotocol/protocolVersion"
META_PREFIX = "io.modelcontextprotocol/"
TASK_META = "governed-mcpd/task"  # the user's task, in the `_meta` of a client's request
