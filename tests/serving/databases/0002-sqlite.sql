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
INSERT INTO "deliveries" VALUES('evt_d7d658a1624336316d0c5c2fe6ab36b1','bob','https://example.com/hook','{"id": "evt_d7d658a1624336316d0c5c2fe6ab36b1", "object": "event", "type": "video.completed", "created_at": 1796057222, "data": {"id": "video_86c35af30f279abecba466ec88ecaa86", "status": "completed"}}',0,1.79605722282927703862e+09,1.79605722282927703862e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_7caa415ca225fe0d72c855d2a9faf41d','bob','https://example.com/hook','{"id": "evt_7caa415ca225fe0d72c855d2a9faf41d", "object": "event", "type": "video.failed", "created_at": 1796057222, "data": {"id": "video_f7fbd17baf796c7b3c96d8f8c9787a96", "status": "failed"}}',0,1.79605722292493629453e+09,1.79605722292493629453e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_9802db947e1597b1baa976c7749e9c3d','bob','https://example.com/hook','{"id": "evt_9802db947e1597b1baa976c7749e9c3d", "object": "event", "type": "video.cancelled", "created_at": 1796057222, "data": {"id": "video_9ce63ecbacea773a5eb973e78467342d", "status": "cancelled"}}',0,1.79605722296923780434e+09,1.79605722296923780434e+09,NULL,NULL);
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
INSERT INTO "jobs" VALUES(1,'video_4bae5632bffe6507d94adef3b753da2a','alice','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79605722266240358355e+09,1.79605722274426937105e+09,1.79605722277199387551e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_4bae5632bffe6507d94adef3b753da2a.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_86c35af30f279abecba466ec88ecaa86','bob','completed','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.79605722278804254528e+09,1.79605722281223273277e+09,1.79605722282793736459e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_86c35af30f279abecba466ec88ecaa86.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(3,'video_ab0dc075289302f1e6bc3b4dc295aa61','alice','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605722284030747408e+09,1.79605722286041402822e+09,1.79605722287609076504e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_f7fbd17baf796c7b3c96d8f8c9787a96','bob','failed','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605722288841581344e+09,1.7960572229121608734e+09,1.7960572229239032268e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(5,'video_de1844f090e9483772b340747aa74c98','alice','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605722293216323853e+09,NULL,1.79605722293990421292e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_9ce63ecbacea773a5eb973e78467342d','bob','cancelled','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605722294707489017e+09,NULL,1.79605722296806859968e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(7,'video_5419d8ebbfdcac864aa88bade0b9949f','alice','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.7960608229852392673e+09,1.7960572229759786129e+09,1.79605722299693870537e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_b910c5af44b664bff617e5198b309b6d','bob','in_progress','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606082302523112296e+09,1.79605722301594567295e+09,1.79605722304018878936e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(9,'video_056d1f7c18d98abf3ffbdce3191e59c8','alice','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605722305592012408e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_4260959fe731f05439858ad831c9e6b8','bob','queued','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605722306318354606e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
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
INSERT INTO "schema_version" VALUES(2);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
COMMIT;
