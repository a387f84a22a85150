module github.com/smorand/mcp-proxy

go 1.21
