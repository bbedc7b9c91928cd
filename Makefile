.PHONY: up down status test fast lint simulate test-vagrant proto venv

up down status test fast lint simulate test-vagrant:
	@./raftsman $@

proto:
	@.ci/stubs
