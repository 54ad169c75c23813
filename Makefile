# Short names for what scripts/ does; each script says more.
.PHONY: build run stop test

build: ## the binary as it is shipped, target/dist/huskv
	cargo build --profile dist --locked

run: ## three nodes in containers, until make stop; Ctrl-C ends only the logs
	scripts/docker.sh run

stop: ## stops them; the data stays
	scripts/docker.sh stop

test: ## everything that must hold before a change lands
	scripts/check.sh
