BEGIN TRANSACTION;
CREATE TABLE deliveries (
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	url VARCHAR(2000) NOT NULL, 
	body TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	next_at FLOAT, 
	delivered_at FLOAT, 
	error VARCHAR(500), 
	PRIMARY KEY (id)
);
INSERT INTO "deliveries" VALUES('evt_13da5e54bb9383202e818c4db02dafde','bob','https://example.com/hook','{"id": "evt_13da5e54bb9383202e818c4db02dafde", "object": "event", "type": "video.completed", "created_at": 1796057241, "data": {"id": "video_195bc5d583fb3e9b0d7fc6f87509379b", "status": "completed"}}',0,1.79605724195728564266e+09,1.79605724195728564266e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_3dd1f7bc270c3fdb5af1be32e9f1fd7b','bob','https://example.com/hook','{"id": "evt_3dd1f7bc270c3fdb5af1be32e9f1fd7b", "object": "event", "type": "video.failed", "created_at": 1796057242, "data": {"id": "video_5920e07670ae621fd5767d75f6cbeb0a", "status": "failed"}}',0,1.7960572420856580734e+09,1.7960572420856580734e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_1c14df86000811f895e50cd8f21231b9','bob','https://example.com/hook','{"id": "evt_1c14df86000811f895e50cd8f21231b9", "object": "event", "type": "video.cancelled", "created_at": 1796057242, "data": {"id": "video_e75f51e1c7981da29e1edc4a2ffa0cf5", "status": "cancelled"}}',0,1.79605724213155078889e+09,1.79605724213155078889e+09,NULL,NULL);
CREATE TABLE flows (
	tenant VARCHAR(64) NOT NULL, 
	weight FLOAT NOT NULL, 
	served FLOAT NOT NULL, 
	PRIMARY KEY (tenant, weight)
);
INSERT INTO "flows" VALUES('bob',1.0,6.0);
CREATE TABLE jobs (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	model VARCHAR(256) NOT NULL, 
	request JSON NOT NULL, 
	weight FLOAT NOT NULL, 
	progress INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	owner VARCHAR(64), 
	lease_until FLOAT, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	expires_at FLOAT, 
	timings JSON NOT NULL, 
	neighbours INTEGER, 
	error_code VARCHAR(64), 
	error_message VARCHAR(2000), 
	result_key VARCHAR(256), 
	result_sha256 VARCHAR(64), 
	result_size INTEGER, 
	idempotency_key VARCHAR(255), 
	body_sha256 VARCHAR(64), 
	webhook_url VARCHAR(2000), 
	PRIMARY KEY (number), 
	UNIQUE (tenant, idempotency_key), 
	UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'video_a460ec7df5a71d255130c352aca36296','alice','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79605724178034639355e+09,1796057241.86797,1.79605724189593648912e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_a460ec7df5a71d255130c352aca36296.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_195bc5d583fb3e9b0d7fc6f87509379b','bob','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79605724190802478789e+09,1.79605724194002199173e+09,1.79605724195593380925e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_195bc5d583fb3e9b0d7fc6f87509379b.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(3,'video_9c740d5bcbbf140cd73aba56930d3bb3','alice','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605724197210240363e+09,1.79605724199600768091e+09,1.79605724201187467578e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_5920e07670ae621fd5767d75f6cbeb0a','bob','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605724202393388748e+09,1.7960572420600676536e+09,1.79605724208417725563e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(5,'video_c97ee472b9d81e9c7690d0d9d726a025','alice','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605724210427546497e+09,NULL,1796057242.11199,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_e75f51e1c7981da29e1edc4a2ffa0cf5','bob','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605724212421059612e+09,NULL,1.79605724213038635251e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(7,'video_5f33d24054cfc1e069fdc48b2aa87a5d','alice','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606084215748119351e+09,1.7960572421440672875e+09,1.79605724217450881006e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_3f44b0e3a98b650904d9643534436ea4','bob','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606084220177483561e+09,1.79605724219203066824e+09,1.79605724221992540359e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(9,'video_374f743ab3e75f5b2cc9b62d6e458ade','alice','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605724223605179787e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_24df484ce0c1235465d708f51635327d','bob','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605724223989343646e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
CREATE TABLE pins (
	foundation VARCHAR(64) NOT NULL, 
	path VARCHAR(16) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	concept VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	pinned BOOLEAN NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (foundation, path, sha256)
);
INSERT INTO "pins" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','temporal','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','orbit',1,1,1);
CREATE TABLE rates (
	tenant VARCHAR(64) NOT NULL, 
	arrival FLOAT NOT NULL, 
	PRIMARY KEY (tenant)
);
INSERT INTO "rates" VALUES('alice',1700000000.5);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(4);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
COMMIT;
