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
INSERT INTO "deliveries" VALUES('evt_d3da945c754625c0300b80e2fcc3c700','bob','https://example.com/hook','{"id": "evt_d3da945c754625c0300b80e2fcc3c700", "object": "event", "type": "video.completed", "created_at": 1796057232, "data": {"id": "video_4182bc159b099c6e5fa63d79e659af8f", "status": "completed"}}',0,1.79605723295313239097e+09,1.79605723295313239097e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_8fd357d9ab5210d86c19d2112711144e','bob','https://example.com/hook','{"id": "evt_8fd357d9ab5210d86c19d2112711144e", "object": "event", "type": "video.failed", "created_at": 1796057233, "data": {"id": "video_ea3677e7b20180e2de2b3f0dbfeae8af", "status": "failed"}}',0,1.79605723307290387159e+09,1.79605723307290387159e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_7355ad759cd49699f5089d834f7469e7','bob','https://example.com/hook','{"id": "evt_7355ad759cd49699f5089d834f7469e7", "object": "event", "type": "video.cancelled", "created_at": 1796057233, "data": {"id": "video_4ced293e3da43a3e641d007ed19da5b6", "status": "cancelled"}}',0,1.796057233113147974e+09,1.796057233113147974e+09,NULL,NULL);
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
INSERT INTO "jobs" VALUES(1,'video_c225b202719222cf98c0a9c15bb6402e','alice','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79605723280418586732e+09,1.79605723287225270273e+09,1.79605723289999055867e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_c225b202719222cf98c0a9c15bb6402e.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_4182bc159b099c6e5fa63d79e659af8f','bob','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.7960572329120006561e+09,1.796057232936248064e+09,1.79605723295187783244e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_4182bc159b099c6e5fa63d79e659af8f.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(3,'video_19baa9d391de6b8903e027143c8ff965','alice','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605723296847701077e+09,1.79605723299556541442e+09,1.79605723301998543737e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_ea3677e7b20180e2de2b3f0dbfeae8af','bob','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605723303198552128e+09,1.79605723305609607694e+09,1.79605723307187294958e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(5,'video_26598a6856821722c3c208339ca48936','alice','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.7960572330839352608e+09,NULL,1.79605723309200215344e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_4ced293e3da43a3e641d007ed19da5b6','bob','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605723310392236709e+09,NULL,1.79605723311208605773e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(7,'video_2faa901865e35f0157987dde15902835','alice','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606083314132523539e+09,1796057233.12796,1.79605723315233445163e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_447cd8401ae8957546effcc4faca7188','bob','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606083317785573004e+09,1.79605723316888499264e+09,1.79605723319213986394e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(9,'video_98810834f8fafc0e9ee802c3983a8503','alice','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605723320853424068e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_7317bf790af14971e2989410ea978c93','bob','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605723321991968158e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
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
INSERT INTO "schema_version" VALUES(3);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
COMMIT;
