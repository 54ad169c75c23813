# Short names for commands and scripts; the head of each script explains it.
.PHONY: build run stop test

build: ## the release binary, target/dist/huskv
	HUSKV_COMMIT=$$(git rev-parse --short=12 HEAD) cargo build --profile dist --locked

run: ## three nodes in containers, until make stop; Ctrl-C ends only the logs
	scripts/docker.sh run

stop: ## stops them and keeps the data
	scripts/docker.sh stop

test: ## all checks that a change must pass
	scripts/check.sh
